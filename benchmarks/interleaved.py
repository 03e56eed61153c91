"""Timing side by side: contenders take turns, so that a machine whose speed drifts treats all of them alike.

Ratios of medians are the result. Absolute times are printed for orientation only.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Timing:
    """One contender: ``seconds`` of each counted round."""

    name: str
    seconds: list[float]

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return statistics.median(self.seconds)


def measure(contenders: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> list[Timing]:
    """Call every contender once a round, ``warmup`` rounds uncounted and then ``rounds`` counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warmup + rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return [Timing(name, values) for name, values in seconds.items()]


def report(title: str, timings: list[Timing], baseline: str, json_file: Path | None = None) -> dict[str, float]:
    """Print a table, write ``json_file`` when given, and return how many times faster than ``baseline`` each one is."""
    base = next(timing.median for timing in timings if timing.name == baseline)
    ratios = {timing.name: base / timing.median for timing in timings}
    table = Table("contender", "median ms", "min ms", "max ms", f"times faster than {baseline}", title=title)
    for timing in timings:
        figures = (timing.median, min(timing.seconds), max(timing.seconds))
        table.add_row(timing.name, *(f"{1e3 * value:.1f}" for value in figures), f"{ratios[timing.name]:.2f}")
    Console().print(table)
    if json_file is not None:
        result = {"title": title, "baseline": baseline, "ratios": ratios, "timings": [asdict(one) for one in timings]}
        json_file.write_text(json.dumps(result, indent=1) + "\n")
    return ratios
