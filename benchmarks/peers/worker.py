"""An engine in a process of its own on one core: it answers calls over a pipe and tells how long they took.

Two engines in one process would share threads, caches of kernels and memory pools; in turns, each in its own process,
they share a core and its drifts and nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.peers import engines
from benchmarks.peers.engines import Call, Ids
from service.cli.memory_allocator import environment_for_models

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Answer:
    """What a call gave, and its seconds: by the clock on the wall, and of the processor in all threads."""

    tokens: Ids
    wall: float
    cpu: float


class WorkerError(RuntimeError):
    """The process ended; the message is the end of what it wrote."""


class Worker:
    """The parent's side: starts the process, which loads its engine while others start."""

    def __init__(self, engine: str, arguments: Sequence[object], core: int) -> None:
        """``engine`` is a function of ``engines``, called there with ``arguments``."""
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the process lives
        command = [sys.executable, "-m", "benchmarks.peers.worker", engine, str(core), *map(str, arguments)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=_environment(engine),
        )

    def ask(self, call: Call) -> Answer:
        """Run one call.

        Raises:
            WorkerError: the process has failed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(call)) + "\n")
            self._process.stdin.flush()
            return Answer(**json.loads(self._process.stdout.readline()))
        except (OSError, ValueError) as error:
            self._process.wait(timeout=60)
            self._log.seek(0)
            raise WorkerError(f"{self._process.args}:\n{self._log.read()[-3000:]}") from error

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


def take_turns(
    workers: Mapping[str, Worker], call: Call, rounds: Mapping[str, int], warmup: int = 2
) -> dict[str, list[Answer]]:
    """Ask every worker once a round: ``warmup`` rounds that do not count, and then as many as ``rounds`` says."""
    for _ in range(warmup):
        for worker in workers.values():
            worker.ask(call)
    answers: dict[str, list[Answer]] = {name: [] for name in workers}
    for turn in range(max(rounds.values())):
        for name, worker in workers.items():
            if turn < rounds[name]:
                answers[name].append(worker.ask(call))
    return answers


def _environment(engine: str) -> dict[str, str]:
    """Ours gets the memory allocator that ``malgil serve`` takes, the others huge pages, which are best for them."""
    memory = environment_for_models(os.environ) if engine == "malgil" else {}
    others = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1"}
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", **os.environ, **memory, **others}


def main() -> None:
    """Answer calls from standard input until it is closed."""
    engine_name, core, *arguments = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})  # before anything counts the cores
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    engine: Any = getattr(engines, engine_name)(*arguments)
    for line in sys.stdin:
        call = Call(**json.loads(line))
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = engine(call)
        answer = Answer(tokens, time.perf_counter() - wall, time.process_time() - cpu)
        print(json.dumps(asdict(answer)), file=replies, flush=True)


if __name__ == "__main__":
    main()
