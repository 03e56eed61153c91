"""A server that answers ``POST`` as a test says, without any model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

SEEDS = 2**63


class Reply(NamedTuple):
    """What is sent back; a body that is no bytes is sent as JSON."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = {}


Respond = Callable[[str, dict[str, Any]], Reply]
"""From the path and the body of a request."""


class StubServer(NamedTuple):
    """Where it listens, and the bodies that came so far."""

    url: str
    bodies: list[dict[str, Any]]


@contextmanager
def stub_server(respond: Respond) -> Iterator[StubServer]:
    """A server on a free port until the block ends."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            bodies.append(body)
            reply = respond(self.path, body)
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            try:
                self.send_response(reply.status)
                for header in reply.headers.items():
                    self.send_header(*header)
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                """The client is gone."""

        def log_message(self, *arguments: Any) -> None:
            """Quietly."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield StubServer(f"http://127.0.0.1:{server.server_port}", bodies)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(outputs: list[dict[str, Any]], version: int = 1) -> Reply:
    """Of a server that is ours."""
    return Reply({"id": "1", "model_name": "stub", "model_version": version, "outputs": outputs})


def echo(path: str, body: dict[str, Any]) -> Reply:
    """``/v1/generate``: the texts; hypotheses behind the first are numbered, sampled ones tell their seed."""
    assert path == "/v1/generate", path
    parameters = body["parameters"]
    outputs = []
    for index, text in enumerate(body["inputs"]):
        output: dict[str, Any] = {"warnings": []}
        if parameters.get("do_sample"):
            output["seed"] = (parameters["seed"] + index) % SEEDS
        told = f"{text} {output['seed']}" if "seed" in output else text
        output["hypotheses"] = [
            {"text": f"{told} {place}" if place else told, "score": -1.5 - place}
            for place in range(parameters.get("num_hypotheses", 1))
        ]
        outputs.append({"generated_text": told, **output})
    return answer(outputs)
