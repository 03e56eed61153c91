"""A model server that behaves as TF Serving does, for tests: real gRPC, real SavedModels, and faults on request.

``python -m tests.support.model_server --model_base_path ROOT`` takes the names of TF Serving's flags. It serves every
folder of ROOT, and says on its output which port it listens on, after that of REST if there is one, once everything is
loaded. Tests start it by ``tests.support.model_server_process``.

As TF Serving it has no handler for SIGTERM: it dies at once. gRPC listens with SO_REUSEPORT, which is its default.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2, model_pb2, predict_pb2
from tensorflow_serving.config import model_server_config_pb2

from tests.support.model_server_batching import Batching, BatchingOptions
from tests.support.model_server_faults import CONTROL_SERVICE, Control, NeverAnswered, StatusError, exhausted, happen
from tests.support.model_server_models import Models, ModelsUnavailable
from tests.support.model_server_rest import serve_rest
from tests.support.model_server_session import LoadedVersion

_SPARE_THREADS = 16  # they say that there are no threads
_HANG_POLL_S = 0.01
_NO_DEADLINE_S = 1e9  # gRPC's word for it is some number above

_GARBAGE = b"\xff\xff\xff no message"

Handler = Callable[[bytes, grpc.ServicerContext], bytes]
Answer = Callable[[Any, grpc.ServicerContext], Message]


class ModelServer:
    """The server in this process; it listens from ``start`` on, on ``port`` and, if it is asked to, on ``rest_port``.

    Args:
        options: of ``parse_flags``.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._batching = BatchingOptions(**{each.name: getattr(options, each.name) for each in fields(BatchingOptions)})
        self._models = Models(
            _config(options),
            self._load,
            poll_s=options.file_system_poll_wait_seconds,
            retries=options.max_num_load_retries,
            retry_s=options.load_retry_interval_micros / 1e6,
            allow_labels=options.allow_version_labels_for_unavailable_models,
        )
        self._threads = threading.Semaphore(options.grpc_max_threads)
        self._control = Control()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(options.grpc_max_threads + _SPARE_THREADS),
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        )
        self.port = 0
        self.rest_port = 0

    def start(self) -> None:
        """Load the models, then listen.

        Raises:
            ModelsUnavailable: not all could be loaded.
        """
        self._models.start()
        predict = self._guarded("Predict", predict_pb2.PredictRequest, self._predict)
        status = self._guarded("GetModelStatus", get_model_status_pb2.GetModelStatusRequest, self._status)
        reload = self._guarded("HandleReloadConfigRequest", model_management_pb2.ReloadConfigRequest, self._reload)
        self._server.add_generic_rpc_handlers(
            (
                _service("tensorflow.serving.PredictionService", {"Predict": predict}),
                _service(
                    "tensorflow.serving.ModelService",
                    {"GetModelStatus": status, "HandleReloadConfigRequest": reload},
                ),
                _service(CONTROL_SERVICE, self._control.handlers),
            )
        )
        if self._options.enable_grpc_healthcheck_service:
            servicer = health.HealthServicer()
            for name in ("", "ModelService", "PredictionService"):
                servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        self.port = self._server.add_insecure_port(f"{self._options.address}:{self._options.port}")
        self._server.start()
        if self._options.rest_api_port:
            rest = serve_rest(self._options.address, max(self._options.rest_api_port, 0), self._models)
            self.rest_port = rest.server_port
        if self._options.model_config_file_poll_wait_seconds:
            threading.Thread(target=self._reload_forever, daemon=True).start()

    def stop(self) -> None:
        """For a server that is not a process of its own."""
        self._server.stop(None).wait()
        self._models.close()

    def _reload_forever(self) -> None:
        """Take the list of models from its file again and again."""
        while True:
            time.sleep(self._options.model_config_file_poll_wait_seconds)
            try:
                self._models.reload(_config_file(self._options.model_config_file))
            except (OSError, ValueError, text_format.ParseError) as error:
                print(f"Failed to read ModelServerConfig file: {error}", file=sys.stderr, flush=True)
            except StatusError as error:
                message = f"PollFilesystemAndReloadConfig failed to ReloadConfig: {error.message}"
                print(message, file=sys.stderr, flush=True)

    def _load(self, name: str, number: int, folder: Path) -> LoadedVersion:
        batched = (lambda run: Batching(run, self._batching)) if self._options.enable_batching else None
        return LoadedVersion(name, number, folder, warm_up=self._options.enable_model_warmup, batched=batched)

    # --- calls --------------------------------------------------------------------------------------------------------

    def _guarded(self, method: str, request_type: type[Message], answer: Answer) -> Handler:
        """What every call goes through: the limit of threads, the faults, the statuses."""

        def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
            if not self._threads.acquire(blocking=False):
                context.abort(exhausted().code, exhausted().message)
            try:
                request: Any = request_type.FromString(data)
                spec = getattr(request, "model_spec", model_pb2.ModelSpec())
                with self._control.running(method, spec) as fault, _hanging(context):
                    happen(fault)
                    response = answer(request, context)
                if fault.wrong:
                    _falsify(response)
                return _GARBAGE if fault.garbage else response.SerializeToString()
            except StatusError as error:
                context.abort(error.code, error.message)
            except DecodeError:
                context.abort(grpc.StatusCode.INTERNAL, "")
            finally:
                self._threads.release()

        return handle

    def _predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> Message:
        left = context.time_remaining()
        return self._models.find(request.model_spec).predict(request, left if left < _NO_DEADLINE_S else None)

    def _status(self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext) -> Message:
        return self._models.status(request.model_spec)

    def _reload(self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext) -> Message:
        self._models.reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response


@contextmanager
def _hanging(context: grpc.ServicerContext) -> Iterator[None]:
    """A call that is never answered holds its thread until its client is gone."""
    try:
        yield
    except NeverAnswered:
        while context.is_active():
            time.sleep(_HANG_POLL_S)
        raise StatusError(grpc.StatusCode.CANCELLED, "") from None


def _falsify(response: Any) -> None:
    for tensor in response.outputs.values():
        for index, value in enumerate(tensor.float_val):
            tensor.float_val[index] = value + 1.0


def _service(name: str, handlers: Mapping[str, Handler]) -> grpc.GenericRpcHandler:
    """Bytes in, bytes out: what does not parse is the handler's to answer."""
    methods = {method: grpc.unary_unary_rpc_method_handler(handler) for method, handler in handlers.items()}
    return grpc.method_handlers_generic_handler(name, methods)


def _config(options: argparse.Namespace) -> model_server_config_pb2.ModelConfigList:
    """From the file of configurations, or one model for each folder of the root; labels come from the file alone."""
    if options.model_config_file is not None:
        return _config_file(options.model_config_file).model_config_list
    server = model_server_config_pb2.ModelServerConfig()
    for folder in sorted(path for path in options.model_base_path.resolve().iterdir() if path.is_dir()):
        model = server.model_config_list.config.add(
            name=folder.name, base_path=str(folder), model_platform="tensorflow"
        )
        model.model_version_policy.latest.num_versions = options.num_versions
    return server.model_config_list


def _config_file(path: Path) -> Any:
    return text_format.Parse(path.read_text(), model_server_config_pb2.ModelServerConfig())


def parse_flags(arguments: Sequence[str]) -> argparse.Namespace:
    """TF Serving's flags, and four of our own.

    ``--address``: where it listens, which TF Serving does everywhere. ``--rest_api_port=-1``: on a free port.
    ``--num_versions``: how many of the latest versions of each folder are served. ``--tensorflow_text=false``: a server
    that was built without TF Text. ``--ends_with_parent``: no process is left behind where a test run was killed.
    """
    parser = argparse.ArgumentParser(prog="model_server", allow_abbrev=False)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8500)
    parser.add_argument("--rest_api_port", type=int, default=0)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model_base_path", type=Path)
    source.add_argument("--model_config_file", type=Path)
    parser.add_argument("--num_versions", type=int, default=1)
    parser.add_argument("--file_system_poll_wait_seconds", type=float, default=1.0)
    parser.add_argument("--model_config_file_poll_wait_seconds", type=float, default=0.0)
    parser.add_argument("--max_num_load_retries", type=int, default=5)
    parser.add_argument("--load_retry_interval_micros", type=int, default=60_000_000)
    parser.add_argument("--grpc_max_threads", type=int, default=4 * (os.cpu_count() or 1))
    parser.add_argument("--tensorflow_intra_op_parallelism", type=int, default=0)
    parser.add_argument("--tensorflow_inter_op_parallelism", type=int, default=0)
    for name, default in (
        ("allow_version_labels_for_unavailable_models", False),
        ("enable_model_warmup", True),
        ("enable_grpc_healthcheck_service", False),
        ("enable_batching", False),
        ("tensorflow_text", True),
        ("ends_with_parent", False),
    ):
        parser.add_argument(f"--{name}", type=_boolean, nargs="?", const=True, default=default)
    for field in fields(BatchingOptions):
        kind = _boolean if isinstance(field.default, bool) else int
        parser.add_argument(f"--{field.name}", type=kind, default=field.default)
    return parser.parse_args(arguments)


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text]


def main(arguments: Sequence[str]) -> None:
    options = parse_flags(arguments)
    parent = os.getppid()
    # Where sessions say nothing, TensorFlow asks these when it makes its threads; 0: as many as there are cores.
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(options.tensorflow_intra_op_parallelism)
    os.environ["TF_NUM_INTEROP_THREADS"] = str(options.tensorflow_inter_op_parallelism)
    if options.tensorflow_text:  # stock images link its ops
        import tensorflow_text  # noqa: F401
    try:
        server = ModelServer(options)
        server.start()
    except (ModelsUnavailable, StatusError) as error:
        print(f"Failed to start server. Error: {error}", file=sys.stderr, flush=True)
        os._exit(255)  # not by way of threads that are busy
    print(*filter(None, (server.rest_port, server.port)), flush=True)
    while not options.ends_with_parent or os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
