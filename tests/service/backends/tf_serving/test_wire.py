"""Arrays to messages and back; that the bytes are TF Serving's is in ``tests/contract/test_tf_serving_wire.py``."""

import numpy as np
import pytest

from service.backend import VersionState
from service.backends.tf_serving import wire
from service.backends.tf_serving.proto import tf_serving_pb2 as messages
from service.errors import BackendFailed

ARRAYS = {
    "int32": np.array([[1, -2, 3], [2**31 - 1, -(2**31), 0]], np.int32),
    "int64": np.array([2**63 - 1, -(2**63)], np.int64),
    "float32": np.array([[[0.1, -np.inf, np.nan, -0.0]]], np.float32),
    "bool": np.array([True, False, True]),
    "string": np.array([[b"a", b""], ["말길".encode(), b"\xff\0"]], object),
    "scalar": np.array(7, np.int32),
    "transposed": np.arange(6, dtype=np.int32).reshape(2, 3).T,
    "nothing": np.zeros((2, 0, 3), np.float32),
    "no texts": np.empty((0,), object),
}


def _tensor(shape, dtype, **fields):
    tensor = messages.TensorProto(dtype=dtype, **fields)
    tensor.tensor_shape.SetInParent()
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def _received(tensor):
    """What comes of a tensor in an answer."""
    return wire.predict_outputs(messages.PredictResponse(outputs={"x": tensor}).SerializeToString())["x"]


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_as_it_was_sent(name):
    request = messages.PredictRequest.FromString(wire.predict_request("model", 3, "sign", {"x": ARRAYS[name]}))
    found = _received(request.inputs["x"])
    assert found.dtype == ARRAYS[name].dtype
    np.testing.assert_array_equal(found, ARRAYS[name])
    assert found.flags.writeable


def test_a_request_names_model_version_and_signature():
    request = messages.PredictRequest.FromString(wire.predict_request("model", 3, "sign", {}))
    assert (request.model_spec.name, request.model_spec.version.value) == ("model", 3)
    assert request.model_spec.signature_name == "sign"


@pytest.mark.parametrize("array", [np.zeros(2), np.zeros(2, np.uint8), np.array(["text"]), np.array(["text"], object)])
def test_what_no_signature_has_does_not_leave(array):
    with pytest.raises(BackendFailed, match="input x: "):
        wire.predict_request("model", 1, "sign", {"x": array})


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (_tensor([2], messages.DT_INT32, int_val=[5, 6]), np.array([5, 6], np.int32)),
        (_tensor([2], messages.DT_INT64, int64_val=[5, 6]), np.array([5, 6], np.int64)),
        (_tensor([1, 2], messages.DT_FLOAT, float_val=[0.5, 6]), np.array([[0.5, 6]], np.float32)),
        (_tensor([2], messages.DT_BOOL, bool_val=[True, False]), np.array([True, False])),
        (_tensor([2], messages.DT_STRING, string_val=[b"a", b"b"]), np.array([b"a", b"b"], object)),
        (_tensor([2, 2], messages.DT_INT32, int_val=[7]), np.full((2, 2), 7, np.int32)),
        (_tensor([3], messages.DT_STRING, string_val=[b"a"]), np.array([b"a"] * 3, object)),
        (_tensor([], messages.DT_FLOAT, float_val=[2.0]), np.array(2.0, np.float32)),
        (_tensor([0, 4], messages.DT_INT32), np.zeros((0, 4), np.int32)),
        (_tensor([0], messages.DT_INT32, int_val=[7]), np.zeros(0, np.int32)),
        (_tensor([2], messages.DT_BOOL, tensor_content=b"\x01\x00"), np.array([True, False])),
    ],
)
def test_values_of_the_repeated_fields_are_read(tensor, expected):
    found = _received(tensor)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (_tensor([3], messages.DT_INT32, int_val=[1, 2]), "2 values in shape"),
        (_tensor([1], messages.DT_INT32, int_val=[1, 2]), "2 values in shape"),
        (_tensor([2], messages.DT_INT32), "0 values in shape"),
        (_tensor([2], messages.DT_INT32, float_val=[1, 2]), "0 values in shape"),
        (_tensor([2], messages.DT_INT32, tensor_content=b"\0" * 4), "1 values in shape"),
        (_tensor([1], messages.DT_INT32, tensor_content=b"\0" * 5), "5 bytes"),
        (_tensor([1], messages.DT_STRING, tensor_content=b"text"), "4 bytes"),
        (_tensor([-1], messages.DT_INT32, int_val=[1]), "shape"),
        (_tensor([2**40], messages.DT_INT32, int_val=[1]), "shape"),
        (_tensor([2**62, 4], messages.DT_INT32, int_val=[1]), "shape"),
        (_tensor([1], 2, float_val=[1]), "data type 2"),
        (_tensor([1], messages.DT_INVALID), "data type 0"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(tensor, message):
    with pytest.raises(BackendFailed, match=f"output x: .*{message}"):
        _received(tensor)


def test_a_tensor_of_unknown_rank_is_refused():
    tensor = _tensor([], messages.DT_INT32, int_val=[1])
    tensor.tensor_shape.unknown_rank = True
    with pytest.raises(BackendFailed, match="shape"):
        _received(tensor)


@pytest.mark.parametrize("read", [wire.predict_outputs, wire.version_statuses])
def test_garbage_is_refused(read):
    with pytest.raises(BackendFailed, match="is not a "):
        read(b"\xff\xff\xff")


def test_statuses_are_told_by_what_they_mean_here():
    states = messages.ModelVersionStatus
    response = messages.GetModelStatusResponse()
    for version, state, error in (
        (1, states.END, ""),
        (2, states.UNLOADING, ""),
        (3, states.AVAILABLE, ""),
        (4, states.LOADING, ""),
        (5, states.START, ""),
        (6, states.END, "Op type not registered 'SentencepieceOp'\nin binary"),
        (7, states.UNKNOWN, ""),
    ):
        each = response.model_version_status.add(version=version, state=state)
        each.status.error_code, each.status.error_message = (5 if error else 0), error
    found = wire.version_statuses(response.SerializeToString())
    assert {version: status.state for version, status in found.items()} == {
        3: VersionState.READY,
        4: VersionState.LOADING,
        5: VersionState.LOADING,
        6: VersionState.REFUSED,
    }
    assert found[6].reason == "TF Serving could not load it: Op type not registered 'SentencepieceOp'"


def test_the_status_of_all_versions_is_asked_for():
    request = messages.GetModelStatusRequest.FromString(wire.status_request("model"))
    assert request.model_spec.name == "model"
    assert not request.model_spec.HasField("version")
