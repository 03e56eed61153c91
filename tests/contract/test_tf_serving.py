"""What Malgil relies on in TF Serving, one statement a test, held against every server that there is (conftest.py)."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from model_export.contract import WARMUP_RECORDS
from service.certificate import examine
from tests.support.model_server_client import add_version, eventually
from tests.support.model_server_process import ModelServerFailed, model_server
from tests.support.model_server_toys import endless
from tests.support.rows import at_most

WINDOW_S = 3.0
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def floats(values, shape):
    """A tensor of that shape, whether the values fill it or not."""
    shape = tf.TensorShape(shape).as_proto()
    return tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum, tensor_shape=shape, float_val=values)


def answer(response, name="y"):
    return tf.make_ndarray(response.outputs[name]).tolist()


# --- an answer --------------------------------------------------------------------------------------------------------


def test_an_answer_says_which_version_and_signature_gave_it(server):
    response = server.predict(x=[1.0, 2.0])
    assert answer(response) == [1.0, 2.0]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("toy", 1, "serving_default")


def test_an_answer_has_its_values_one_by_one(server):
    tensor = server.predict(x=[1.0, 2.0]).outputs["y"]
    assert (list(tensor.float_val), tensor.tensor_content) == ([1.0, 2.0], b"")


def test_an_output_filter_leaves_the_rest_out(server):
    assert set(server.predict("toy", "pair", x=[1.0]).outputs) == {"x", "y"}
    assert set(server.predict("toy", "pair", only=("x",), x=[1.0]).outputs) == {"x"}


def test_bytes_come_back_as_they_went(server):
    texts = ["말길".encode(), b"", b"\x00\xff"]
    assert answer(server.predict("toy", "echo", text=np.array(texts, object)), "text") == texts


# --- Predict errors ---------------------------------------------------------------------------------------------------


def test_an_unknown_model_is_not_found(server):
    refusal = (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(nope)")
    assert server.refusal("nope", x=[1.0]) == refusal


def test_an_unknown_version_is_not_found(server):
    refusal = (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(toy, 99)")
    assert server.refusal(spec={"version": {"value": 99}}, x=[1.0]) == refusal


def test_an_unknown_label_is_an_invalid_argument(server):
    refusal = (INVALID, "Unrecognized servable version label: nope")
    assert server.refusal(spec={"version_label": "nope"}, x=[1.0]) == refusal


def test_an_unknown_signature_is_a_failed_precondition(server):
    refusal = (grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "nope" not found.')
    assert server.refusal("toy", "nope", x=[1.0]) == refusal


@pytest.mark.parametrize("inputs", [{}, {"z": [1.0]}], ids=["missing", "unknown"])
def test_an_input_that_is_missing_or_unknown_is_an_invalid_argument(server, inputs):
    code, text = server.refusal(**inputs)
    assert code == INVALID
    assert text.startswith("Signature input alias: x(feed name: ")
    assert ") not found in request and no default value provided" in text


def test_an_extra_input_is_an_invalid_argument(server):
    code, text = server.refusal(x=[1.0], z=[1.0])
    assert code == INVALID
    assert text.startswith("input size does not match signature: 2!=1")


def test_a_wrong_type_is_an_invalid_argument(server):
    code, text = server.refusal("toy", "echo", text=[1.0])
    assert code == INVALID
    assert "Expects arg[0] to be string but float is provided" in text


def test_an_unknown_name_in_the_output_filter_is_an_invalid_argument(server):
    code, text = server.refusal(only=("zzz",), x=[1.0])
    assert code == INVALID
    assert text.startswith("output tensor alias not found in signature: zzz")


def test_a_request_without_a_name_is_an_invalid_argument(server):
    assert server.refusal("", x=[1.0]) == (INVALID, "ModelSpec has no name specified.")


def test_garbage_is_an_internal_error_that_says_nothing(server):
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=10.0)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "")


def test_an_assertion_in_the_graph_is_an_invalid_argument_that_begins_with_its_text(server):
    code, text = server.refusal("toy", "check", x=[-1.0])
    assert code == INVALID
    assert text.startswith("assertion failed: [negative]")


# --- deadlines --------------------------------------------------------------------------------------------------------


def test_a_deadline_ends_the_call(server):
    began = time.monotonic()
    code, _ = server.refusal("toy", "count", timeout=0.3, steps=endless())
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.25 < time.monotonic() - began < 5.0


def test_a_deadline_cancels_the_run(shared):
    _, server = shared("--grpc_max_threads=2")
    for _ in range(4):
        assert server.refusal("toy", "count", timeout=0.3, steps=endless())[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        # A thread is free, as none would be if the runs went on.
        eventually(lambda: _is_answered(server), "a free thread", timeout_s=5.0)


def _is_answered(server):
    try:
        server.predict(x=[1.0])
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False
    return True


# --- threads ----------------------------------------------------------------------------------------------------------


def test_calls_above_the_limit_of_threads_are_refused(shared):
    process, server = shared("--grpc_max_threads=2")
    process.take_calls()
    calls = []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(server.refusal, "toy", "count", timeout=3.0, steps=endless())
        eventually(lambda: len(calls.extend(process.take_calls()) or calls) == 2, "two busy threads")
        assert server.refusal(x=[1.0]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
    eventually(lambda: _is_answered(server), "a free thread", timeout_s=5.0)


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [1.0, [[1.0, 2.0]]], ids=["rank 0", "rank 2"])
def test_a_rank_that_the_signature_does_not_have_is_accepted(server, x):
    assert answer(server.predict(x=x)) == x


def test_of_too_few_values_the_last_is_repeated(server):
    assert answer(server.predict(x=floats([1.0, 2.0], [4]))) == [1.0, 2.0, 2.0, 2.0]


def test_a_rank_0_input_cannot_be_batched(batching):
    refusal = (INVALID, "Batching Run() input tensors must have at least one dimension")
    assert batching.refusal(x=1.0) == refusal


def test_more_rows_than_a_batch_holds_are_an_invalid_argument(batching):
    refusal = (INVALID, "Task size 5 is larger than maximum input batch size 4")
    assert batching.refusal(x=[1.0] * 5) == refusal


def test_an_output_without_a_batch_dimension_cannot_be_batched(batching):
    refusal = (grpc.StatusCode.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
    assert batching.refusal("toy", "total", x=[1.0]) == refusal


def test_an_empty_batch_hangs_until_its_deadline(batching):
    began = time.monotonic()
    assert batching.refusal(timeout=1.0, x=floats([], [0]))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began > 0.9


def test_calls_at_once_are_merged_and_each_gets_its_own_rows(batching):
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda x: answer(batching.predict(x=x)), ([1.0], [2.0, 3.0], [4.0])))
    assert answers == [[1.0], [2.0, 3.0], [4.0]]
    assert time.monotonic() - began < WINDOW_S - 0.5  # together they are a full batch; alone each would have waited


def test_unequal_inner_shapes_cannot_be_merged(batching):
    """Each is fine alone, so it takes two that meet in one batch."""
    with ThreadPoolExecutor(2) as pool:
        codes = {
            call.exception().code()
            for call in [
                pool.submit(batching.predict, "toy", "sums", ids=np.ones([2, size], np.int32)) for size in (2, 3)
            ]
        }
    assert codes == {grpc.StatusCode.FAILED_PRECONDITION}


def test_unequal_inner_shapes_are_padded_where_the_server_is_told_to(start):
    flags = ("--max_batch_size=2", "--batch_timeout_micros=5000000", "--pad_variable_length_inputs=true")
    _, server = start("--enable_batching", *flags)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(server.predict, "toy", "sums", ids=ids) for ids in ([[5, 2]], [[1, 2, 3]])]
        # With the first element of the tensor itself, which is why Malgil batches before the server.
        assert [answer(call.result()) for call in calls] == [[5 + 2 + 5], [6]]


def test_a_full_queue_is_unavailable(start):
    flags = ("--max_batch_size=1", "--max_enqueued_batches=1", "--num_batch_threads=1")
    _, server = start("--enable_batching", *flags)
    with ThreadPoolExecutor(4) as pool:
        refusals = list(pool.map(lambda _: server.refusal("toy", "count", timeout=2.0, steps=endless()), range(4)))
    (text, *_) = [text for code, text in refusals if code == grpc.StatusCode.UNAVAILABLE]
    assert text.startswith("The batch scheduling queue to which this task was submitted is full; ")


@pytest.fixture
def batching(shared):
    """A server whose batches wait for their 4 rows."""
    _, server = shared("--enable_batching", "--max_batch_size=4", f"--batch_timeout_micros={WINDOW_S * 1e6:.0f}")
    return server


# --- versions ---------------------------------------------------------------------------------------------------------


def test_the_status_of_an_unknown_model_is_not_found(server):
    with pytest.raises(grpc.RpcError) as caught:
        server.status("nope")
    refusal = (grpc.StatusCode.NOT_FOUND, "Could not find any versions of model nope")
    assert (caught.value.code(), caught.value.details()) == refusal


def test_the_status_of_a_loaded_version_is_available(server):
    assert server.status("toy") == {1: ("AVAILABLE", 0, "")}


def test_a_new_version_is_picked_up_and_swapped_without_a_failed_request(server, model, toys):
    stop, seen = threading.Event(), []

    def call_on():
        while not stop.is_set():
            seen.append(answer(server.predict(model, x=[1.0]))[0])

    with ThreadPoolExecutor(2) as pool:
        callers = [pool.submit(call_on) for _ in range(2)]
        try:
            eventually(lambda: 1.0 in seen, "an answer")
            add_version(server.root / model, toys, 2)
            eventually(lambda: 2.0 in seen[-10:] and server.available(model) == [2], "the new version")
            time.sleep(0.2)
        finally:
            stop.set()
        for caller in callers:
            caller.result()  # raises what a request failed with
    assert seen[0] == 1.0
    assert seen[-1] == 2.0
    assert server.status(model)[1] == ("END", 0, "")
    assert server.refusal(model, spec={"version": {"value": 1}}, x=[1.0])[0] == grpc.StatusCode.NOT_FOUND


def test_a_removed_version_falls_back_to_the_one_before(server, model, toys):
    add_version(server.root / model, toys, 2)
    eventually(lambda: server.available(model) == [2], "the new version")
    shutil.rmtree(server.root / model / "2")
    eventually(lambda: server.available(model) == [1], "the old version")
    assert answer(server.predict(model, x=[1.0])) == [1.0]


def await_failure_of_version_2(server, model, kind):
    """A real server goes on trying for five minutes, without an end that could be waited for."""
    last = ("LOADING", "END") if kind == "TF Serving" else ("END",)
    eventually(lambda: server.status(model).get(2, ("",))[0] in last, "an attempt at the broken version")
    time.sleep(2.0 if kind == "TF Serving" else 0.2)  # for what might come of it


def test_a_broken_version_leaves_the_old_serving(server, model, toys, kind):
    (add_version(server.root / model, toys, 2) / "saved_model.pb").write_bytes(b"\xff\xff\xff")
    await_failure_of_version_2(server, model, kind)
    assert server.available(model) == [1]
    assert answer(server.predict(model, x=[1.0])) == [1.0]


def test_a_broken_version_ends_with_its_error(server, model, toys, tries_once):
    add_version(server.root / model, toys, 2, lacks="saved_model.pb")
    eventually(lambda: server.status(model).get(2, ("",))[0] == "END", "the end of the broken version")
    _, code, text = server.status(model)[2]
    assert code == grpc.StatusCode.NOT_FOUND.value[0]
    assert text.startswith("Could not find SavedModel .pb")
    assert server.available(model) == [1]


def test_a_folder_whose_name_is_no_number_is_not_looked_at(server, model, toys):
    for name in (".3", "3.partial", "next"):
        shutil.copytree(toys / "toy" / "3", server.root / model / name)
    add_version(server.root / model, toys, 2)
    eventually(lambda: server.available(model) == [2], "the version whose name is one")
    assert set(server.status(model)) == {1, 2}


def test_a_broken_version_can_be_replaced(server, model, toys, tries_once):
    broken = add_version(server.root / model, toys, 2, lacks="saved_model.pb")
    eventually(lambda: server.status(model).get(2, ("",))[0] == "END", "the end of the broken version")
    shutil.rmtree(broken)
    time.sleep(0.5)  # for one look at the folders
    add_version(server.root / model, toys, 2)
    eventually(lambda: server.available(model) == [2], "the repaired version")


# --- reloads and labels -----------------------------------------------------------------------------------------------


def both(name, **labels):
    """Versions 1 and 2 at once, with labels."""
    return {"name": name, "model_version_policy": {"specific": {"versions": [1, 2]}}, "version_labels": labels}


def by_label(server, model, label):
    return answer(server.predict(model, spec={"version_label": label}, x=[1.0]))[0]


def test_a_policy_can_serve_several_versions_at_once(server, model, toys):
    add_version(server.root / model, toys, 2)
    server.reload(both(model))
    eventually(lambda: server.available(model) == [2, 1], "both versions")
    for version in (1, 2):
        response = server.predict(model, spec={"version": {"value": version}}, x=[1.0])
        assert answer(response) == [version]
    assert answer(server.predict(model, x=[1.0])) == [2.0]  # of no version: the latest


def test_a_reload_moves_labels(server, model, toys):
    add_version(server.root / model, toys, 2)
    server.reload(both(model))
    eventually(lambda: server.available(model) == [2, 1], "both versions")
    server.reload(both(model, stable=1, canary=2))
    assert (by_label(server, model, "stable"), by_label(server, model, "canary")) == (1.0, 2.0)
    server.reload(both(model, stable=2))
    assert by_label(server, model, "stable") == 2.0
    assert server.refusal(model, spec={"version_label": "canary"}, x=[1.0])[0] == INVALID


def test_a_label_of_a_version_that_is_not_available_is_refused_and_leaves_labels_as_they_were(server, model):
    server.reload({"name": model, "version_labels": {"stable": 1}})
    with pytest.raises(grpc.RpcError) as caught:
        server.reload({"name": model, "version_labels": {"stable": 2, "canary": 1}})
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    begins = f"Request to assign label to version 2 of model {model}, which is not currently available for inference"
    assert caught.value.details().startswith(begins)
    assert by_label(server, model, "stable") == 1.0
    assert server.refusal(model, spec={"version_label": "canary"}, x=[1.0])[0] == INVALID


def test_a_reload_adds_and_removes_models(server, model, toys):
    add_version(server.root / "added", toys, 3)
    try:
        server.reload({"name": model})
        assert answer(server.predict("added", x=[1.0])) == [3.0]  # loaded when the reload returns
    finally:
        shutil.rmtree(server.root / "added")
        server.reload({"name": model})
    eventually(lambda: server.available("added") == [], "its removal")
    assert server.refusal("added", x=[1.0])[0] == grpc.StatusCode.NOT_FOUND
    assert answer(server.predict(model, x=[1.0])) == [1.0]


@pytest.mark.parametrize(
    "models",
    [(), ({"name": "toy"}, {"name": "toy"}), ({"name": "toy", "base_path": "models/toy"},)],
    ids=["empty", "twice", "relative path"],
)
def test_a_bad_configuration_is_an_invalid_argument_and_changes_nothing(server, models):
    with pytest.raises(grpc.RpcError) as caught:
        server.reload_exactly(*models)
    assert caught.value.code() == INVALID
    assert answer(server.predict(x=[1.0])) == [1.0]


def test_a_reload_with_a_missing_folder_never_returns_and_blocks_the_next(start):
    _, server = start("--grpc_max_threads=8")
    for models in ([{"name": "missing"}, {"name": "toy"}], [{"name": "toy"}]):
        with pytest.raises(grpc.RpcError) as caught:
            server.reload_exactly(*models, timeout=1.0)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert answer(server.predict(x=[1.0])) == [1.0]


@pytest.fixture
def labelled(toys, tmp_path):
    """A configuration with a label, as a server reads it when it starts."""
    path = tmp_path / "models.config"
    path.write_text(
        "model_config_list { config { name: 'toy' model_platform: 'tensorflow' "
        f"base_path: '{toys / 'toy'}' version_labels {{ key: 'stable' value: 3 }} }} }}"
    )
    return f"--model_config_file={path}"


def test_a_label_at_the_start_ends_the_server(start, labelled):
    with pytest.raises(ModelServerFailed) as caught:
        start(labelled)
    assert caught.value.code == 255


def test_a_label_at_the_start_is_taken_with_the_flag_for_it(start, labelled):
    _, server = start(labelled, "--allow_version_labels_for_unavailable_models=true")
    assert by_label(server, "toy", "stable") == 3.0


# --- warm-up ----------------------------------------------------------------------------------------------------------


def write_warmup(version, *records):
    """Calls of these signatures of ``toy``, or bytes as they are."""
    path = version / WARMUP_RECORDS
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record if isinstance(record, bytes) else warmup_record(record))


def warmup_record(signature):
    request = predict_pb2.PredictRequest(model_spec={"name": "toy", "signature_name": signature})
    request.inputs["x"].CopyFrom(floats([1.0], [1]))
    return prediction_log_pb2.PredictionLog(predict_log={"request": request}).SerializeToString()


def test_warm_up_records_are_run(start, toys):
    process, server = start()
    write_warmup(add_version(server.root / "toy", toys, 2), "", "total", "check")
    add_version(server.root / "toy", toys, 3)  # any later version, so that the log is complete
    process.restart("--num_versions=2")
    eventually(lambda: any("Finished reading warmup data" in line for line in process.log), "the log")
    (line,) = [line for line in process.log if "Finished reading warmup data" in line]
    assert "records read: 3" in line


@pytest.mark.parametrize("record", ["nope", b"\xff\xff\xff"], ids=["unknown signature", "garbage"])
def test_a_bad_warm_up_record_fails_the_load(server, model, toys, record, kind):
    hidden = server.root / model / "next"
    shutil.copytree(toys / "toy" / "2", hidden)
    write_warmup(hidden, "", record)
    hidden.rename(server.root / model / "2")
    await_failure_of_version_2(server, model, kind)
    assert server.available(model) == [1]


def test_a_bad_warm_up_record_ends_a_server_that_does_not_try_again(start):
    process, server = start("--max_num_load_retries=0")
    write_warmup(server.root / "toy" / "1", "nope")
    with pytest.raises(ModelServerFailed) as caught:
        process.restart()
    assert caught.value.code == 255
    assert 'Serving signature key "nope" not found.' in caught.value.log


def test_loads_are_tried_again_with_the_port_closed(start):
    process, server = start()
    (server.root / "toy" / "1" / "saved_model.pb").unlink()
    connected = []

    def knock():
        eventually(lambda: process.process.poll() is None, "a start")
        while process.process.poll() is None:
            with socket.socket() as client:
                connected.append(client.connect_ex(("127.0.0.1", process.port)) == 0)
            time.sleep(0.05)

    process.stop()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(knock)
        with pytest.raises(ModelServerFailed) as caught:
            process.restart("--max_num_load_retries=2", "--load_retry_interval_micros=300000")
    assert caught.value.log.count("Could not find SavedModel") >= 3
    assert connected
    assert not any(connected)


# --- lifecycle --------------------------------------------------------------------------------------------------------


def test_sigterm_ends_it_at_once_and_calls_in_flight_are_unavailable(start):
    process, server = start()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(server.refusal, "toy", "count", steps=endless())
        eventually(lambda: bool(process.take_calls()), "the call")
        began = time.monotonic()
        assert process.terminate() == 143
        assert time.monotonic() - began < 2.0
        code, text = call.result(10.0)
    assert code == grpc.StatusCode.UNAVAILABLE
    assert text.startswith("Stream removed")  # (Socket closed), or what else the kernel called it


def test_a_server_that_is_back_on_its_port_is_found_again(start):
    process, server = start()
    process.kill()
    assert server.refusal(x=[1.0], timeout=5.0)[0] == grpc.StatusCode.UNAVAILABLE
    process.restart()
    eventually(lambda: _is_reached(server), "the connection")


def _is_reached(server):
    try:
        return answer(server.predict(x=[1.0], timeout=5.0)) == [1.0]
    except grpc.RpcError:
        return False


def test_health_is_not_served_unless_it_is_asked_for(shared):
    _, server = shared("--grpc_max_threads=2")
    with pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest(), timeout=5.0)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_health_says_nothing_of_models(start):
    _, server = start("--enable_grpc_healthcheck_service=true")
    shutil.rmtree(server.root / "toy" / "1")
    eventually(lambda: server.available("toy") == [], "no model at all")
    stub = health_pb2_grpc.HealthStub(server.channel)
    for service in ("", "ModelService", "PredictionService"):
        response = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5.0)
        assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_two_servers_can_listen_on_one_port(start, toys):
    process, _ = start()
    with model_server(toys, port=process.port) as second:
        assert second.port == process.port
        assert process.process.poll() is None


def test_a_client_takes_4_mb_unless_it_says_otherwise(server):
    million = floats([1.0], [1_200_000])  # 5 MB in the answer
    assert server.refusal(x=million)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED


# --- our artifacts ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def artifact(server, artifact_root):
    """The name of a real model in the server."""
    name = "tiny-rnn"
    shutil.copytree(artifact_root / name, server.root / name)
    server.reload(timeout=300.0)
    yield name
    shutil.rmtree(server.root / name)
    server.reload()


def test_an_artifact_describes_itself(server, artifact, artifact_root):
    response = server.predict(artifact, "describe", unused=[""])
    stored = (artifact_root / artifact / "1" / "assets" / "manifest.json").read_bytes()
    assert list(response.outputs["manifest"].string_val) == [stored]


def test_an_artifact_keeps_its_certificate(server, artifact):
    async def predict(signature, inputs):
        response = server.predict(artifact, signature, timeout=60.0, **inputs)
        return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}

    asyncio.run(examine(predict, at_most(1)))  # raises what differs


def test_without_the_ops_of_tf_text_an_artifact_does_not_load(start, artifact_root):
    _, server = start("--tensorflow_text=false")
    shutil.copytree(artifact_root / "tiny-rnn", server.root / "tiny-rnn")
    with pytest.raises(grpc.RpcError):
        server.reload(timeout=60.0)
    state, _, text = server.status("tiny-rnn")[1]
    assert state == "END"
    assert "Op type not registered 'SentencepieceOp'" in text
