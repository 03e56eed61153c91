"""Servers as processes of their own: started, measured from outside, and gone afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).parents[1]
STOP_S = 60.0


class ServerFailed(RuntimeError):
    """It ended before it listened; the message is the end of what it wrote."""


@dataclass(frozen=True)
class Server:
    """A process that listens on 127.0.0.1."""

    pid: int
    port: int


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, all its threads together: the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime((~pid << 3) | 2)


def peak_bytes(pid: int) -> int:
    """The most memory of a process that was resident."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found is not None
    return 1024 * int(found[1])


@contextmanager
def started(
    module: str, *arguments: object, cores: Collection[int], log: Path | None = None, **environment: str
) -> Iterator[Server]:
    """``python -m module``, until left.

    Args:
        module: it says on its output, in its first line, the port that it listens on: at the end or in an address.
        arguments: its own.
        cores: it may run on these; it finds no others from its first moment on.
        log: where its standard error goes; by default it is only kept for the message of a failure.
        environment: variables beside those of this process, of which none that set our own server up are passed on.

    Raises:
        ServerFailed: it ended instead.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALGIL_")}
    with tempfile.TemporaryFile("w+") if log is None else log.open("w+") as stderr:
        with _on(cores):  # which the process inherits
            process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                cwd=REPOSITORY,
                env=clean | environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        try:
            yield Server(process.pid, _port(process, stderr))
        finally:
            process.terminate()
            try:
                process.communicate(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise


@contextmanager
def _on(cores: Collection[int]) -> Iterator[None]:
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _port(process: subprocess.Popen[str], stderr: IO[str]) -> int:
    assert process.stdout is not None
    line = process.stdout.readline()
    told = re.search(r"http://\S+:(\d+)\b|(\d+)$", line)
    if told is None:
        process.kill()
        process.wait()
        stderr.seek(0)
        raise ServerFailed(f"{process.args}: {line}{stderr.read()[-3000:]}")
    return int(told[1] or told[2])
