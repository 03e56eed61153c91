"""What a profile is worth to a server that has just started: the first seconds of overload, with and without one.

The simulated model and the mixture of ``benchmarks.scheduling`` on a virtual clock: at three times what can be run,
from the first moment on, each time before a server that knows nothing but the profile. Its times are those of the
simulation, some of them 15 % off.

    python -m benchmarks.cold_start [--rounds 9] [--seconds 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.scheduling import (
    CAPACITY_ROWS,
    SimulatedBackend,
    SimulatedMix,
    arrivals,
    drive,
    report,
    some_row,
)
from benchmarks.scheduling import Arrival as Request
from model_export.contract import Profile, ProfiledCall
from service.backend import ModelVersion, VersionState
from service.backends.scripted import scripted_manifest, tiny_tokenizer
from service.batching import Batcher
from service.settings import MAX_BATCH_ROWS, MAX_BATCH_TOKENS, Settings
from service.telemetry import Telemetry
from tests.support.virtual_loop import run_virtually

LOAD = 3.0


class ProfiledBackend(SimulatedBackend):
    """The same, and its model has a profile."""

    def versions(self) -> Sequence[ModelVersion]:
        """One, that of the mixture's rows."""
        chance = random.Random(0)
        calls = [
            ProfiledCall(rows, source, new, beam_size, self._seconds(rows, source, new, beam_size) * noise)
            for beam_size in (1, 4)
            for source, new in ((8, 8), (32, 32), (128, 32), (128, 128))
            for rows in (1, 4, 8, 16, 32, 64)
            for noise in (chance.lognormvariate(0.0, 0.15),)
        ]
        manifest = replace(scripted_manifest("echo"), profile=Profile("simulated", 1, "", tuple(calls)))
        return [ModelVersion("echo", 1, VersionState.READY, None, manifest, tiny_tokenizer())]

    def _seconds(self, rows: int, source: int, new: int, beam_size: int) -> float:
        return float(np.array([1, new, rows * new * beam_size, rows * source]) @ self.SECONDS)


BOUNDS = {"max_batch_rows": MAX_BATCH_ROWS, "max_batch_tokens": MAX_BATCH_TOKENS}
SERVERS: dict[str, tuple[type[SimulatedBackend], dict[str, int]]] = {
    "without": (SimulatedBackend, BOUNDS),
    "with, batches as without": (ProfiledBackend, BOUNDS),
    "with a profile": (ProfiledBackend, {}),
}


async def compare(rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Medians of every figure, by server."""

    def cold(server: str) -> Batcher:
        backend, bounds = SERVERS[server]
        return Batcher(backend(), Settings(backend="tf-serving", **bounds), Telemetry())  # type: ignore[arg-type]

    mix, chance = SimulatedMix(), random.Random(0)
    crowd = [Request(0.0, some_row(mix, chance), 3600.0) for _ in range(CAPACITY_ROWS)]
    capacity = CAPACITY_ROWS / (await drive(cold("without"), crowd)).seconds
    runs: dict[str, list[dict[str, float]]] = {server: [] for server in SERVERS}
    for turn in range(rounds):
        requests = arrivals(mix, 100 + turn, LOAD * capacity, seconds)
        for server, figures in runs.items():
            figures.append((await drive(cold(server), requests)).figures())
    return {
        server: {name: statistics.median(each[name] for each in figures) for name in figures[0]}
        for server, figures in runs.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=10.0, help="of arrivals in a round")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    found = {f"{LOAD:.0%}": run_virtually(compare(arguments.rounds, arguments.seconds))}
    title = f"the first {arguments.seconds:g} s of a server, simulated"
    report(title, found, ours="with a profile", plain="without")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"title": title, "medians": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
