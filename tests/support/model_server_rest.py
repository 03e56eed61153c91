"""Of TF Serving's REST interface what probes ask: GetModelStatus and GetModelMetadata as JSON.

``GET /v1/models/NAME[/versions/NUMBER | /labels/LABEL][/metadata]``
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2

from tests.support.model_server_faults import StatusError
from tests.support.model_server_models import Models
from tests.support.model_server_session import invalid

_METADATA = "/metadata"
_HTTP = {grpc.StatusCode.INVALID_ARGUMENT: 400, grpc.StatusCode.NOT_FOUND: 404}


def serve_rest(address: str, port: int, models: Models) -> ThreadingHTTPServer:
    """A server in a thread of its own, which ends with the process or with ``shutdown``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                code, fields = 200, _answer(self.path, models)
            except StatusError as error:
                code, fields = _HTTP[error.code], {"error": error.message}
            body = json.dumps(fields, indent=1).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """TF Serving does not log requests."""

    server = ThreadingHTTPServer((address, port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _answer(path: str, models: Models) -> dict[str, Any]:
    answer: Callable[[model_pb2.ModelSpec, Models], dict[str, Any]]
    answer = _metadata if path.endswith(_METADATA) else _status
    match [unquote(part) for part in path.removesuffix(_METADATA).split("/")[1:]]:
        case ["v1", "models"]:
            raise invalid("Missing model name in request.")
        case ["v1", "models", name]:
            return answer(model_pb2.ModelSpec(name=name), models)
        case ["v1", "models", name, "versions", number] if number.isdecimal():
            return answer(model_pb2.ModelSpec(name=name, version={"value": int(number)}), models)
        case ["v1", "models", name, "labels", label]:
            return answer(model_pb2.ModelSpec(name=name, version_label=label), models)
    raise invalid(f"Malformed request: GET {path}")


def _status(spec: model_pb2.ModelSpec, models: Models) -> dict[str, Any]:
    return _fields(models.status(spec))


def _metadata(spec: model_pb2.ModelSpec, models: Models) -> dict[str, Any]:
    loaded = models.find(spec)
    signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=loaded.signatures)
    found = model_pb2.ModelSpec(name=loaded.name, version={"value": loaded.version})
    return {"model_spec": _fields(found), "metadata": {"signature_def": _fields(signatures)}}


def _fields(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
