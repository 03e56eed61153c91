"""How to use a machine's cores: several calls at once, several threads within each, or both.

Each way has a process of its own, since TensorFlow's threads are its process's, and loads the artifact as the embedded
backend does. The processes take turns: in each round one after the other keeps so many calls running until it has
answered its share, while the others wait. The result is new tokens a second, and tokens for each second of processor:
the former is what counts on a machine that has nothing else to do, the latter can be trusted on others too.

    python -m benchmarks.concurrency [--model build/models/en-fr/1] [--cores 2] [--rounds 9] [--json FILE]

Without ``--model`` it exports models/en-fr for itself.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import operator
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.console import Console
from rich.table import Table

from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET, Manifest, ProfiledCall, cpu_name
from model_export.export import export_model
from model_export.profiling import call_inputs
from model_export.trained_model import load_trained_model
from service.backends.saved_model import SavedModel
from service.settings import usable_cores

SHIPPED = Path(__file__).parents[1] / "models" / "en-fr"
CALLS_OF_A_TURN = 2
"""For each call that runs at the same time."""
SHAPES = (
    ProfiledCall(1, 20, 32, 1, 0.0),
    ProfiledCall(8, 20, 32, 1, 0.0),
    ProfiledCall(32, 20, 32, 1, 0.0),
    ProfiledCall(8, 20, 32, 4, 0.0),
)


class Way(NamedTuple):
    """One use of the cores."""

    runs: int
    threads: int

    def __str__(self) -> str:
        """As the tables show it."""
        return f"{self.runs} x {self.threads}"


@dataclass
class Measured:
    """What one way made of one shape, round by round."""

    tokens_per_s: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)  # processor seconds over seconds


def work(artifact: str, way: Way, pipe: Connection) -> None:
    """A process that answers each shape it is sent with (seconds, seconds of processor) for its calls."""
    model = SavedModel(Path(artifact), intra_op_threads=way.threads, slots=way.runs)
    manifest = Manifest.from_json((Path(artifact) / ASSETS_FOLDER / MANIFEST_ASSET).read_bytes())
    inputs = {shape: call_inputs(shape, manifest) for shape in SHAPES}
    with ThreadPoolExecutor(way.runs) as pool:

        def calls(shape: ProfiledCall, slot: int) -> None:
            for _ in range(CALLS_OF_A_TURN):
                model.run("generate_ids", inputs[shape], slot=slot)

        def turn(shape: ProfiledCall) -> tuple[float, float]:
            started, cpu_started = time.perf_counter(), time.process_time()
            list(pool.map(calls, repeat(shape), range(way.runs)))
            return time.perf_counter() - started, time.process_time() - cpu_started

        for shape in SHAPES:
            turn(shape)  # compiles the graph
        pipe.send(None)
        while (shape := pipe.recv()) is not None:
            pipe.send(turn(shape))


def measure(artifact: Path, ways: list[Way], rounds: int) -> dict[ProfiledCall, dict[Way, Measured]]:
    """Let the ways take turns."""
    spawning = multiprocessing.get_context("spawn")
    pipes: dict[Way, Connection] = {}
    for way in ways:
        pipes[way], theirs = spawning.Pipe()
        spawning.Process(target=work, args=(str(artifact), way, theirs), daemon=True).start()
        pipes[way].recv()  # one after the other: they would disturb each other's compilation
    found = {shape: {way: Measured() for way in ways} for shape in SHAPES}
    for _ in range(rounds):
        for shape in SHAPES:
            for way, pipe in pipes.items():
                pipe.send(shape)
                seconds, cpu_s = pipe.recv()
                tokens = way.runs * CALLS_OF_A_TURN * shape.rows * shape.new_tokens
                found[shape][way].tokens_per_s.append(tokens / seconds)
                found[shape][way].cores.append(cpu_s / seconds)
    for pipe in pipes.values():
        pipe.send(None)
    return found


def report(title: str, found: dict[ProfiledCall, dict[Way, Measured]], json_file: Path | None) -> None:
    """A table of medians, and JSON of all."""
    table = Table(
        "rows", "beam size", "runs x threads", "tokens/s", "times 1 x 1", "cores used", "tokens / CPU s", title=title
    )
    for column in table.columns:
        column.justify = "right"
    for shape, by_way in found.items():
        base = statistics.median(next(iter(by_way.values())).tokens_per_s)
        for way, measured in by_way.items():
            rate = statistics.median(measured.tokens_per_s)
            cores = statistics.median(measured.cores)
            efficiency = statistics.median(map(operator.truediv, measured.tokens_per_s, measured.cores))
            figures = (f"{rate:,.0f}", f"{rate / base:.2f}", f"{cores:.2f}", f"{efficiency:,.0f}")
            table.add_row(str(shape.rows), str(shape.beam_size), str(way), *figures)
        table.add_section()
    Console().print(table)
    if json_file is not None:
        results = [
            {**asdict(shape), "runs": way.runs, "threads": way.threads, **asdict(measured)}
            for shape, by_way in found.items()
            for way, measured in by_way.items()
        ]
        json_file.write_text(json.dumps({"title": title, "cpu": cpu_name(), "results": results}, indent=1) + "\n")


@contextmanager
def exported() -> Iterator[Path]:
    """The shipped model, while entered."""
    with tempfile.TemporaryDirectory() as folder:
        yield export_model(load_trained_model(SHIPPED), Path(folder), SHIPPED.name)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an exported version, such as build/models/en-fr/1")
    parser.add_argument("--cores", type=int, default=max(2, usable_cores()))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    ways = [Way(1, 1), Way(arguments.cores, 1), Way(1, arguments.cores), Way(arguments.cores, arguments.cores)]
    if arguments.model is None:
        with exported() as artifact:
            found = measure(artifact, ways, arguments.rounds)
    else:
        found = measure(arguments.model, ways, arguments.rounds)
    report(f"{arguments.model or SHIPPED.name}, source 20, 32 new tokens, {cpu_name()}", found, arguments.json)


if __name__ == "__main__":
    main()
