"""The test model server as a process of its own. Nothing here needs TensorFlow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc

from tests.support.model_server_faults import CONTROL_SERVICE, Call, Fault

REPOSITORY = Path(__file__).parents[2]
QUICK = ("--file_system_poll_wait_seconds=0.05", "--max_num_load_retries=0")
"""Flags with which a test need not wait for a look at the folders, nor for a load to be tried again."""


UNWARMED = "--enable_model_warmup=false"
"""For servers of real models whose gateway asks for every golden answer anyway before it calls them ready."""


class ModelServerProcess:
    """A server that listens, with every model loaded; ``log`` is what it has written so far.

    Args:
        root: folder of models, each with its versions.
        flags: more of ``tests.support.model_server``.
        port: 0 takes a free one; a restart keeps it.
    """

    def __init__(self, root: Path, *flags: str, port: int = 0) -> None:
        self.root = root
        self._flags = flags
        self.port = port
        self.log: list[str] = []
        self._start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def rest_address(self) -> str:
        """With ``--rest_api_port``; another one after a restart."""
        return f"127.0.0.1:{self.rest_port}"

    def set_faults(self, *faults: Fault) -> None:
        """From now on these; the first that matches a call is what happens to it. None: nothing goes wrong."""
        self._control("SetFaults", [asdict(fault) for fault in faults])

    def take_calls(self) -> list[Call]:
        """What was asked since this was last asked for."""
        return [Call(**call) for call in self._control("TakeCalls")]

    def take_most_calls_at_once(self) -> int:
        """Since this was last asked for."""
        most: int = self._control("TakeMostAtOnce")
        return most

    def terminate(self) -> int:
        """SIGTERM; the exit code as a shell has it."""
        self.process.terminate()
        return self.wait()

    def kill(self) -> int:
        """SIGKILL; the exit code as a shell has it."""
        self.process.kill()
        return self.wait()

    def freeze(self) -> None:
        """It keeps its connections, and does nothing any more."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Gone, whatever it does and whether it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def restart(self, *flags: str) -> None:
        """Another one on the same port, with more flags if there are any; faults and calls are forgotten."""
        self.stop()
        self._flags += flags
        self._start()

    def wait(self, timeout_s: float = 60.0) -> int:
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code if code >= 0 else 128 - code

    def _start(self) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MALGIL_")}
        self.process = subprocess.Popen(
            _command(self.root, self.port, self._flags),
            cwd=REPOSITORY,
            env=clean | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self.log.extend, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.wait()
            raise ModelServerFailed(code, "".join(self.log))
        *rest, self.port = map(int, line.split())
        self.rest_port = rest[0] if rest else 0

    def _control(self, method: str, value: Any = None) -> Any:
        with grpc.insecure_channel(self.address) as channel:
            answer = channel.unary_unary(f"/{CONTROL_SERVICE}/{method}")(json.dumps(value).encode(), timeout=10.0)
        return json.loads(answer or b"null")


class ModelServerFailed(Exception):
    """It ended before it listened."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"the model server exited with {code}: {log}")
        self.code = code
        self.log = log


def _command(root: Path, port: int, flags: Sequence[str]) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tests.support.model_server",
        f"--port={port}",
        "--ends_with_parent=true",
        *([] if any(flag.startswith("--model_config_file") for flag in flags) else [f"--model_base_path={root}"]),
        *flags,
    ]


def start(root: Path, *flags: str, port: int = 0) -> ModelServerProcess:
    """A server that the caller stops."""
    return ModelServerProcess(root, *flags, port=port)


@contextmanager
def model_server(root: Path, *flags: str, port: int = 0) -> Iterator[ModelServerProcess]:
    """A server that is gone afterwards, whatever the test did."""
    server = ModelServerProcess(root, *flags, port=port)
    try:
        yield server
    finally:
        server.stop()
