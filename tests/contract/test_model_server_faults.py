"""What tests may make go wrong in the test model server does go wrong, in the shape in which TF Serving would fail."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import predict_pb2

from tests.support.model_server_client import Served, add_version
from tests.support.model_server_process import QUICK, Call, Fault, model_server


@pytest.fixture(scope="module")
def process(toys, tmp_path_factory):
    root = tmp_path_factory.mktemp("faulty")
    add_version(root / "toy", toys, 1)
    with model_server(root, *QUICK) as process:
        yield process


@pytest.fixture
def server(process):
    process.set_faults()
    process.take_calls()
    served = Served(process.address, process.root)
    yield served
    served.close()


def value(server, **keywords):
    return tf.make_ndarray(server.predict(x=[1.0], **keywords).outputs["y"]).item()


def test_a_delay_comes_before_the_answer(process, server):
    process.set_faults(Fault(delay_s=0.3))
    began = time.monotonic()
    assert value(server) == 1.0
    assert time.monotonic() - began > 0.28


def test_a_hanging_call_ends_with_its_deadline(process, server):
    process.set_faults(Fault(hang=True))
    assert server.refusal(timeout=0.3, x=[1.0])[0] == grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        (Fault(drop=True), (grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)")),
        (Fault(exhausted=True), (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")),
    ],
)
def test_a_call_can_be_refused(process, server, fault, refusal):
    process.set_faults(fault)
    assert server.refusal(x=[1.0]) == refusal


def test_an_answer_can_be_garbage(process, server):
    process.set_faults(Fault(garbage=True))
    request = predict_pb2.PredictRequest(model_spec={"name": "toy"}, inputs={"x": tf.make_tensor_proto([1.0])})
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")  # the bytes as they are
    with pytest.raises(DecodeError):
        predict_pb2.PredictResponse.FromString(call(request.SerializeToString(), timeout=5.0))


def test_an_answer_can_be_wrong(process, server):
    process.set_faults(Fault(wrong=True))
    assert value(server) == 2.0


def test_a_fault_happens_so_many_times(process, server):
    process.set_faults(Fault(drop=True, times=2), Fault(wrong=True, times=1))
    for _ in range(2):
        assert server.refusal(x=[1.0])[0] == grpc.StatusCode.UNAVAILABLE
    assert [value(server), value(server)] == [2.0, 1.0]


@pytest.mark.parametrize(
    "other",
    [{"methods": ("GetModelStatus",)}, {"model": "other"}, {"version": 2}, {"signature": "pair"}],
    ids=lambda other: next(iter(other)),
)
def test_a_fault_happens_to_the_calls_it_names_only(process, server, other):
    process.set_faults(Fault(drop=True, **other))
    assert value(server) == 1.0
    process.set_faults(Fault(drop=True, model="toy", version=1, signature="pair"))
    assert server.refusal("toy", "pair", spec={"version": {"value": 1}}, x=[1.0])[0] == grpc.StatusCode.UNAVAILABLE


def test_a_frozen_server_answers_once_it_is_thawed(process, server):
    process.freeze()
    try:
        assert server.refusal(timeout=0.5, x=[1.0])[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        process.thaw()
    assert value(server) == 1.0


def test_it_tells_what_it_was_asked(process, server):
    process.take_most_calls_at_once()
    process.set_faults(Fault(delay_s=0.3))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: value(server), range(2)))
    assert process.take_calls() == [Call("Predict", "toy", 0, "")] * 2
    assert process.take_calls() == []
    assert process.take_most_calls_at_once() == 2
