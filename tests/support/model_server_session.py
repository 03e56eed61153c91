"""One version of a model as TF Serving runs it: a SavedModel in a TF1 session, called with what a request holds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tests.support.model_server_faults import StatusError

SIGNATURE_DEFAULT = "serving_default"
_WARMUP_RECORDS = Path("assets.extra") / "tf_serving_warmup_requests"
_MESSAGE_LIMIT = 1024  # characters; TF Serving cuts longer messages of errors
_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int32": "int_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "string": "string_val",
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays, Sequence[str], float | None], list[np.ndarray]]
"""Values by feed name, names to fetch, seconds left -> values."""


def from_tensorflow(error: tf.errors.OpError) -> StatusError:
    """What the runtime said; the session's own message has Python's stack in it, the one under it has not."""
    raw = error.__context__ if isinstance(error.__context__, tf.errors.OpError) else error
    message = raw.message
    if len(message) > _MESSAGE_LIMIT:
        message = message[:_MESSAGE_LIMIT] + "...TRUNCATED"
    return StatusError(_CODES[raw.error_code], message)


def invalid(message: str) -> StatusError:
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, message)


class LoadedVersion:
    """A loaded and warmed-up version.

    Placeholders of unknown shape stand in for those of the signatures: the session of Python checks the shape of what
    it feeds, the one of C++ does not.
    """

    def __init__(
        self,
        name: str,
        version: int,
        folder: Path,
        *,
        warm_up: bool = True,
        batched: Callable[[Run], Run] | None = None,
    ) -> None:
        self.name = name
        self.version = version
        meta_graph = _meta_graph(folder)
        self.signatures = meta_graph.signature_def
        graph = tf.Graph()
        with graph.as_default():
            self._feeds = {
                info.name: tf.compat.v1.placeholder(info.dtype)
                for signature in self.signatures.values()
                for info in signature.inputs.values()
            }
            # Dies with the last call that holds this version, so that an unloaded one still answers those.
            config = tf.compat.v1.ConfigProto()
            optimizations = config.graph_options.rewrite_options
            optimizations.constant_folding = optimizations.OFF  # it takes half of the time of every first call
            self._session = tf.compat.v1.Session(graph=graph, config=config)
            try:
                tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder), input_map=self._feeds)
            except tf.errors.OpError as error:
                raise from_tensorflow(error) from error
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                raise StatusError(grpc.StatusCode.UNKNOWN, str(error)) from error
        self._run: Run = self._run_session
        if warm_up:
            self._warm_up(folder / _WARMUP_RECORDS)  # never through the batching
        if batched is not None:
            self._run = batched(self._run_session)

    def predict(self, request: predict_pb2.PredictRequest, seconds_left: float | None) -> predict_pb2.PredictResponse:
        """Answer a request, or raise StatusError."""
        name = request.model_spec.signature_name or SIGNATURE_DEFAULT
        if name not in self.signatures:
            raise StatusError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        signature = self.signatures[name]
        feeds = _feeds(signature, request.inputs)
        aliases = _fetches(signature, request.output_filter)
        for index, (alias, info) in enumerate(sorted(signature.inputs.items())):
            given = request.inputs[alias].dtype
            if given != info.dtype:
                raise invalid(f"Expects arg[{index}] to be {_dtype(info.dtype)} but {_dtype(given)} is provided")
        outputs = self._run(feeds, [signature.outputs[alias].name for alias in aliases], seconds_left)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = self.version
        response.model_spec.signature_name = name
        for alias, value in zip(aliases, outputs, strict=True):
            _write_fields(response.outputs[alias], value)
        return response

    def _run_session(self, feeds: Arrays, fetches: Sequence[str], seconds_left: float | None) -> list[np.ndarray]:
        options = None
        if seconds_left is not None:
            options = tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(seconds_left * 1000)))
        try:
            outputs: list[np.ndarray] = self._session.run(
                list(fetches), {self._feeds[name]: value for name, value in feeds.items()}, options=options
            )
        except tf.errors.OpError as error:
            raise from_tensorflow(error) from error
        return outputs

    def _warm_up(self, path: Path) -> None:
        if not path.exists():
            return
        count = 0
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                log = prediction_log_pb2.PredictionLog.FromString(record)
                self.predict(log.predict_log.request, None)
                count += 1
        except tf.errors.DataLossError as error:
            message = f"{error.message}. Please verify your warmup data is in TFRecord format."
            raise StatusError(grpc.StatusCode.DATA_LOSS, message) from error
        except DecodeError as error:
            raise invalid(f"Failed to parse warmup record: {record!r} from {path}") from error
        print(
            f"Finished reading warmup data for model at {path}. Number of warmup records read: {count}.",
            file=sys.stderr,
        )


def _meta_graph(folder: Path) -> Any:
    path = folder / "saved_model.pb"
    if not path.is_file():
        raise StatusError(
            grpc.StatusCode.NOT_FOUND,
            f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {folder}",
        )
    try:
        saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except DecodeError as error:
        raise StatusError(grpc.StatusCode.DATA_LOSS, f"Can't parse {path} as binary proto") from error
    for meta_graph in saved_model.meta_graphs:
        if "serve" in meta_graph.meta_info_def.tags:
            return meta_graph
    raise StatusError(grpc.StatusCode.NOT_FOUND, "Could not find meta graph def matching supplied tags: { serve }.")


def _feeds(signature: Any, inputs: Mapping[str, Any]) -> Arrays:
    """Values of the inputs by the names of their tensors, checked in TF Serving's order."""
    if len(inputs) > len(signature.inputs):
        sent, known = set(inputs), set(signature.inputs)
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(known)} "
            f"len({_braced(sent)}) != len({_braced(known)}). Sent extra: {_braced(sent - known)}. "
            f"Missing but required: {_braced(known - sent)}."
        )
    feeds = {}
    for alias, info in signature.inputs.items():
        if alias not in inputs:
            raise invalid(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {_braced(inputs)}, or default input alias set: "
            )
        try:
            # The parser of the runtime itself: fewer values than the shape has are filled up with the last.
            feeds[info.name] = tf.io.parse_tensor(inputs[alias].SerializeToString(), inputs[alias].dtype).numpy()
        except (tf.errors.OpError, TypeError, ValueError) as error:
            raise invalid(f"tensor parsing error: {alias}") from error
    return feeds


def _fetches(signature: Any, output_filter: Sequence[str]) -> list[str]:
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_braced(signature.outputs)}."
            )
        if list(output_filter).count(alias) > 1:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return list(output_filter) or sorted(signature.outputs)


def _write_fields(proto: Any, value: Any) -> None:
    """As TF Serving answers: values one by one in the field of their type, not as ``tensor_content``."""
    array = np.asarray(value)
    dtype = tf.dtypes.as_dtype(array.dtype)
    proto.dtype = dtype.as_datatype_enum
    proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    getattr(proto, _FIELDS[dtype.name]).extend(array.ravel().tolist())


def _dtype(number: int) -> str:
    name = tf.dtypes.as_dtype(number).name if number else "invalid"
    return {"float32": "float", "float64": "double"}.get(name, name)


def _braced(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"
