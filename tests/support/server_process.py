"""``python -m service serve`` as its users run it: a process of its own, on a free port."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


class ServerProcess:
    """A running server; ``log`` and ``output`` are what it has written so far."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MALGIL_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--port", "0", "--grpc-port", "0", *arguments],
            cwd=REPOSITORY,
            env=clean | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.output: list[str] = []
        self.log: list[str] = []
        self._readers = [
            threading.Thread(target=lines.extend, args=(stream,), daemon=True)
            for lines, stream in ((self.output, self.process.stdout), (self.log, self.process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def address(self, timeout_s: float = 120.0) -> str:
        """Where it listens for REST, once it says so; its models are loaded then."""
        return self._told("on", timeout_s)

    def rpc_address(self, timeout_s: float = 120.0) -> str:
        """Where it listens for gRPC, once it says so."""
        return self._told("gRPC on", timeout_s)

    def _told(self, before: str, timeout_s: float) -> str:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            for line in self.output:
                if found := re.search(rf" {before} (\S+?),?\s", line):
                    return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"the server did not start: {''.join(self.log)}")

    def wait(self, timeout_s: float = 60.0) -> int:
        """Its exit code; all output is there afterwards."""
        code = self.process.wait(timeout_s)
        for reader in self._readers:
            reader.join(timeout_s)
        return code


@contextmanager
def server_process(*arguments: str, **environment: str) -> Iterator[ServerProcess]:
    """A server that is gone afterwards, whatever the test did."""
    server = ServerProcess(*arguments, **environment)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.terminate()
        server.wait()
        server.process.stdout.close()
        server.process.stderr.close()
