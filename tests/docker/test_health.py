"""What containers ask themselves, against servers in all their states."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.dockerfiles import REPOSITORY
from tests.support.server_process import server_process

DOCKER = REPOSITORY / "docker"
CONFIG = DOCKER / "tf-serving" / "models.config"


@contextmanager
def answering(answers: Mapping[str, tuple[int, str]]) -> Iterator[int]:
    """The port of a server that has these answers by path, and 404 else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, text = answers.get(self.path, (404, "{}"))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def gateway_health(port: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", DOCKER / "healthcheck.py"],
        env={"MALGIL_PORT": port},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


def tf_serving_health(port: int) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run(
        [bash, DOCKER / "tf-serving" / "healthcheck", CONFIG, str(port)],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


def states(**by_model: str) -> dict[str, tuple[int, str]]:
    """As TF Serving lays its answers out."""
    return {
        f"/v1/models/{model.replace('_', '-')}": (
            200,
            json.dumps({"model_version_status": [{"version": "1", "state": state}]}, indent=1),
        )
        for model, state in by_model.items()
    }


def test_a_gateway_with_its_models_is_healthy() -> None:
    with server_process("--backend", "scripted") as server:
        ran = gateway_health(server.address().rpartition(":")[2])

    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_gateway_whose_models_are_not_there_is_not() -> None:
    with answering({"/readyz": (503, "no model yet")}) as port:
        ran = gateway_health(str(port))

    assert ran.returncode == 1
    assert ran.stdout == "no model yet\n"
    assert ran.stderr == "not ready: 503\n"


def test_nor_is_one_that_does_not_listen() -> None:
    with answering({}) as port:
        pass
    ran = gateway_health(str(port))

    assert ran.returncode == 1
    assert ran.stderr.startswith("no answer: ")


def test_tf_serving_with_every_model_available_is_healthy() -> None:
    with answering(states(en_fr="AVAILABLE", korean_chat="AVAILABLE")) as port:
        ran = tf_serving_health(port)

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.parametrize("state", ["LOADING", "UNLOADING", "END", None])
def test_tf_serving_is_not_while_one_model_is_missing(state: str | None) -> None:
    there = states(en_fr="AVAILABLE") | (states(korean_chat=state) if state else {})
    with answering(there) as port:
        ran = tf_serving_health(port)

    assert (ran.returncode, ran.stdout) == (1, "no version of korean-chat is available\n")


def test_tf_serving_is_not_while_it_does_not_listen(tmp_path: Path) -> None:
    with answering({}) as port:
        pass

    assert tf_serving_health(port).returncode == 1
