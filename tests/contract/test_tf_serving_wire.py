"""Our messages against the official ones of ``tensorflow-serving-api``: the same bytes mean the same, both ways."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.descriptor import FieldDescriptor
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
)

from model_export.contract import SIGNATURES
from service.backend import VersionState
from service.backends.tf_serving import wire
from service.backends.tf_serving.proto import tf_serving_pb2 as ours

OFFICIAL = {
    "TensorShapeProto": tensor_shape_pb2.TensorShapeProto,
    "TensorProto": tensor_pb2.TensorProto,
    "ModelSpec": model_pb2.ModelSpec,
    "PredictRequest": predict_pb2.PredictRequest,
    "PredictResponse": predict_pb2.PredictResponse,
    "ModelVersionStatus": get_model_status_pb2.ModelVersionStatus,
    "GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
    "GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
}
DTYPES = sorted(
    {
        tensor.dtype
        for signature in SIGNATURES.values()
        for tensor in (*signature.inputs.values(), *signature.outputs.values())
    }
)
VALUES = {
    "bool": [True, False, False, True, True, False],
    "float32": [0.1, -np.inf, np.inf, np.nan, -0.0, 3e-41],
    "int32": [2**31 - 1, -(2**31), -1, 0, 1, 127],
    "int64": [2**63 - 1, -(2**63), -1, 0, 1, 2**32],
    "string": [b"", b"a", "말길".encode(), b"\xff\0\xfe", b"x" * 1000, b"\n"],
}
SHAPES = [(6,), (2, 3), (1, 2, 3), (1,), (), (0,), (2, 0, 3)]


def _array(dtype, shape):
    size = int(np.prod(shape))
    array = np.empty(size, object if dtype == "string" else dtype)
    array[:] = VALUES[dtype][:size]
    return array.reshape(shape)


def _bytes(message):
    return message.SerializeToString(deterministic=True)


def _without(message, *fields):
    for field in fields:
        message.ClearField(field)
    return message


def test_every_dtype_of_the_signatures_is_covered():
    assert sorted(VALUES) == DTYPES


@pytest.mark.parametrize("name", [*OFFICIAL, "StatusProto"])
def test_every_field_of_ours_is_an_official_one(name):
    status = get_model_status_pb2.ModelVersionStatus.DESCRIPTOR.fields_by_name["status"].message_type
    official = (status if name == "StatusProto" else OFFICIAL[name].DESCRIPTOR).fields_by_name
    for field in getattr(ours, name).DESCRIPTOR.fields:
        same = official[field.name]
        varints = {FieldDescriptor.TYPE_ENUM, FieldDescriptor.TYPE_INT32}  # the same bytes
        assert field.number == same.number
        assert field.type == same.type or {field.type, same.type} == varints
        assert (field.is_repeated, field.is_packed) == (same.is_repeated, same.is_packed)


def test_data_types_and_states_have_the_official_numbers():
    for name, number in ours.DataType.items():
        assert types_pb2.DataType.Value(name) == number
    assert ours.ModelVersionStatus.State.items() == get_model_status_pb2.ModelVersionStatus.State.items()


def test_methods_have_the_official_paths():
    for path, service, method in (
        (wire.PREDICT, prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"], "Predict"),
        (wire.GET_MODEL_STATUS, model_service_pb2.DESCRIPTOR.services_by_name["ModelService"], "GetModelStatus"),
    ):
        assert path == f"/{service.full_name}/{service.methods_by_name[method].name}"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_we_send_is_what_the_official_message_says(dtype, shape):
    array = _array(dtype, shape)
    sent = wire.predict_request("model", 3, "sign", {"x": array, "another": np.array([1], np.int32)})
    official = predict_pb2.PredictRequest.FromString(sent)

    assert (official.model_spec.name, official.model_spec.version.value) == ("model", 3)
    assert official.model_spec.signature_name == "sign"
    found = tf.make_ndarray(official.inputs["x"])
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(found, array)
    if array.size:  # TensorFlow itself, which is what TF Serving reads it with
        parsed = tf.io.parse_tensor(_bytes(official.inputs["x"]), dtype).numpy()
        np.testing.assert_array_equal(parsed, array)
    assert _bytes(official) == _bytes(ours.PredictRequest.FromString(sent))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_official_maker_of_tensors_makes_the_same_bytes(dtype):
    array = _array(dtype, (2, 3))
    sent = ours.PredictRequest.FromString(wire.predict_request("model", 3, "sign", {"x": array}))
    made = tf.make_tensor_proto(array)
    if dtype == "bool":  # of which it makes bool_val, and TF Serving reads both
        made = _without(made, "bool_val")
        made.tensor_content = array.tobytes()
    assert _bytes(sent.inputs["x"]) == _bytes(made)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("as_content", [False, True], ids=["values", "content"])
def test_what_the_official_message_says_is_what_we_receive(dtype, shape, as_content):
    array = _array(dtype, shape)
    official = predict_pb2.PredictResponse()
    official.model_spec.name = "model"
    official.model_spec.version.value = 3
    official.outputs["x"].CopyFrom(_official_tensor(array, as_content))
    received = official.SerializeToString()

    outputs = wire.predict_outputs(received)
    assert (outputs["x"].shape, outputs["x"].dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(outputs["x"], array)
    assert _bytes(ours.PredictResponse.FromString(received)) == _bytes(official)


def _official_tensor(array, as_content):
    """As TF Serving writes it: values in the repeated fields, or raw bytes."""
    if array.dtype == object or as_content:
        tensor = tf.make_tensor_proto(array, tf.as_dtype("string" if array.dtype == object else array.dtype))
        if array.dtype != object:
            for field in ("int_val", "int64_val", "float_val", "bool_val"):
                tensor.ClearField(field)
            tensor.tensor_content = array.tobytes()
        return tensor
    tensor = tensor_pb2.TensorProto(dtype=tf.as_dtype(array.dtype).as_datatype_enum)
    tensor.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    field = {"int32": "int_val", "int64": "int64_val", "float32": "float_val", "bool": "bool_val"}[array.dtype.name]
    getattr(tensor, field).extend(array.ravel().tolist())
    return tensor


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_value_that_stands_for_all_is_received_as_tensorflow_reads_it(dtype):
    array = np.full((2, 3), VALUES[dtype][1], object if dtype == "string" else dtype)
    official = predict_pb2.PredictResponse()
    official.outputs["x"].CopyFrom(_official_tensor(array[:1, :1], as_content=False))
    official.outputs["x"].tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())

    np.testing.assert_array_equal(tf.make_ndarray(official.outputs["x"]), array)
    np.testing.assert_array_equal(wire.predict_outputs(official.SerializeToString())["x"], array)


def test_statuses_both_ways():
    asked = wire.status_request("model")
    official = get_model_status_pb2.GetModelStatusRequest.FromString(asked)
    assert official.model_spec.name == "model"
    assert official.model_spec.WhichOneof("version_choice") is None
    assert _bytes(official) == asked

    states = get_model_status_pb2.ModelVersionStatus
    answer = get_model_status_pb2.GetModelStatusResponse()
    answer.model_version_status.add(version=1, state=states.END)
    answer.model_version_status.add(version=2, state=states.AVAILABLE)
    broken = answer.model_version_status.add(version=3, state=states.END)
    broken.status.error_code, broken.status.error_message = error_codes_pb2.INVALID_ARGUMENT, "no such op"
    received = answer.SerializeToString()
    assert wire.version_statuses(received) == {
        2: wire.VersionStatus(VersionState.READY),
        3: wire.VersionStatus(VersionState.REFUSED, "TF Serving could not load it: no such op"),
    }
    assert _bytes(ours.GetModelStatusResponse.FromString(received)) == _bytes(answer)
