"""Named NumPy arrays to TF Serving's messages and back.

Numbers and bools travel as ``tensor_content``, the raw bytes, little endian; texts as ``string_val``. TF Serving
answers with either ``tensor_content`` or a repeated field for each data type (``float_val``, ``int_val``, ...), in
which one value stands for all when there is only one. (tensorflow/core/framework/tensor.proto)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from service.backend import Arrays, VersionState
from service.backends.tf_serving.proto import tf_serving_pb2 as messages
from service.errors import BackendFailed

PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_STATUS: Final = "/tensorflow.serving.ModelService/GetModelStatus"
"""Paths of the two methods; they name TF Serving's own packages, whatever ours is called."""

MAX_ELEMENTS: Final = 2**27
"""Of one tensor that is received: a shape is a few bytes, and one value may stand for all of it."""


class _DataType(NamedTuple):
    number: messages.DataType
    dtype: np.dtype[Any]  # as it travels
    values: str  # the repeated field


_DATA_TYPES: Final = tuple(
    _DataType(number, np.dtype(dtype), values)
    for number, dtype, values in (
        (messages.DT_INT32, "<i4", "int_val"),
        (messages.DT_INT64, "<i8", "int64_val"),
        (messages.DT_FLOAT, "<f4", "float_val"),
        (messages.DT_BOOL, "bool", "bool_val"),
        (messages.DT_STRING, "object", "string_val"),
    )
)
_BY_NUMBER: Final[Mapping[messages.DataType, _DataType]] = {each.number: each for each in _DATA_TYPES}
_BY_DTYPE: Final[Mapping[np.dtype[Any], _DataType]] = {each.dtype.newbyteorder("="): each for each in _DATA_TYPES}


class VersionStatus(NamedTuple):
    """What TF Serving says of a version that it has or tried to have; READY: it is loaded."""

    state: VersionState
    reason: str | None = None


def predict_request(name: str, version: int, signature: str, inputs: Arrays) -> bytes:
    """A serialized PredictRequest.

    Raises:
        BackendFailed: an array has a data type that no signature has, or a text is no ``bytes``.
    """
    request = messages.PredictRequest()
    request.model_spec.name = name
    request.model_spec.version.value = version
    request.model_spec.signature_name = signature
    for key, array in inputs.items():
        _fill(request.inputs[key], key, array)
    return bytes(request.SerializeToString())


def predict_outputs(response: bytes) -> dict[str, NDArray[Any]]:
    """The tensors of a serialized PredictResponse.

    Raises:
        BackendFailed: it is none, or a tensor contradicts itself.
    """
    try:
        outputs = messages.PredictResponse.FromString(response).outputs
    except DecodeError as error:
        raise BackendFailed("TF Serving's answer is not a PredictResponse") from error
    return {key: _array(key, tensor) for key, tensor in outputs.items()}


def status_request(name: str) -> bytes:
    """A serialized GetModelStatusRequest for all versions of the model."""
    return bytes(messages.GetModelStatusRequest(model_spec=messages.ModelSpec(name=name)).SerializeToString())


def version_statuses(response: bytes) -> dict[int, VersionStatus]:
    """The versions of a serialized GetModelStatusResponse, without those that TF Serving has let go.

    Raises:
        BackendFailed: it is none.
    """
    try:
        statuses = messages.GetModelStatusResponse.FromString(response).model_version_status
    except DecodeError as error:
        raise BackendFailed("TF Serving's answer is not a GetModelStatusResponse") from error
    states = messages.ModelVersionStatus
    found = {}
    for each in statuses:
        if each.state == states.AVAILABLE:
            found[each.version] = VersionStatus(VersionState.READY)
        elif each.state in (states.START, states.LOADING):
            found[each.version] = VersionStatus(VersionState.LOADING, "TF Serving is loading it")
        elif each.state == states.END and each.status.error_code:
            reason = first_line(each.status.error_message) or f"code {each.status.error_code}"
            found[each.version] = VersionStatus(VersionState.REFUSED, f"TF Serving could not load it: {reason}")
    return found


def first_line(message: str | None, limit: int = 300) -> str:
    """The first line of what TF Serving says; behind it come pages of graph."""
    line = (message or "").strip().partition("\n")[0].rstrip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _fill(tensor: messages.TensorProto, key: str, array: NDArray[Any]) -> None:
    kind = _BY_DTYPE.get(array.dtype)
    if kind is None:
        raise BackendFailed(f"input {key}: {array.dtype} does not travel to TF Serving")
    tensor.dtype = kind.number
    tensor.tensor_shape.SetInParent()  # a scalar's shape is there too, and empty
    for size in array.shape:
        tensor.tensor_shape.dim.add().size = size
    if kind.dtype == object:
        values = array.ravel().tolist()
        if not all(isinstance(value, bytes) for value in values):
            raise BackendFailed(f"input {key}: texts are bytes")
        tensor.string_val.extend(values)
    else:
        tensor.tensor_content = array.astype(kind.dtype, copy=False).tobytes()


def _array(key: str, tensor: messages.TensorProto) -> NDArray[Any]:
    """The tensor as an array of its own; texts as objects of ``bytes``."""
    kind = _BY_NUMBER.get(tensor.dtype)
    if kind is None:
        raise BackendFailed(f"output {key}: data type {tensor.dtype} is not one that signatures have")
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise BackendFailed(f"output {key}: shape {shape} is none")
    values = _content(key, tensor.tensor_content, kind) if tensor.tensor_content else _values(tensor, kind)
    size = math.prod(shape)
    if len(values) == size:
        return values.reshape(shape)
    if len(values) == 1 and not tensor.tensor_content:
        return np.full(shape, values[0], dtype=values.dtype)
    raise BackendFailed(f"output {key}: {len(values)} values in shape {shape}")


def _content(key: str, content: bytes, kind: _DataType) -> NDArray[Any]:
    if kind.dtype == object or len(content) % kind.dtype.itemsize:
        raise BackendFailed(f"output {key}: {len(content)} bytes of tensor_content do not make {kind.values}")
    if kind.dtype == bool:
        return np.frombuffer(content, np.uint8).astype(bool)
    return np.frombuffer(content, kind.dtype).astype(kind.dtype.newbyteorder("="))


def _values(tensor: messages.TensorProto, kind: _DataType) -> NDArray[Any]:
    values = getattr(tensor, kind.values)
    array = np.empty(len(values), kind.dtype.newbyteorder("="))
    array[:] = list(values)
    return array
