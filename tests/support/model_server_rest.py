"""Of TF Serving's REST interface what probes ask: ``GET /v1/models/NAME``, which is GetModelStatus as JSON."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import model_pb2

from tests.support.model_server_faults import StatusError

_MODELS = "/v1/models/"


def serve_status(address: str, port: int, status: Callable[[model_pb2.ModelSpec], Message]) -> ThreadingHTTPServer:
    """A server in a thread of its own, which ends with the process or with ``shutdown``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(_MODELS):
                self._answer(400, {"error": f"Malformed request: GET {self.path}"})
                return
            try:
                found = status(model_pb2.ModelSpec(name=self.path.removeprefix(_MODELS)))
            except StatusError as error:
                self._answer(404, {"error": error.message})
            else:
                fields = json_format.MessageToDict(
                    found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                )
                self._answer(200, fields)

        def _answer(self, code: int, fields: dict[str, Any]) -> None:
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
