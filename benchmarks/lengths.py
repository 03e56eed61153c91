"""What mixed lengths cost: 256 rows whose answers have 5 to 60 tokens, as useful tokens a second.

The model is ``transformer`` with an output layer that counts down from a number each source decides, so that every
engine says EOS where it is due (``peers/countdown.py``). Ours run in batches, greedy:

- static: rows of a batch are all decoded to the length of its longest, as where no row may leave;
- as they come: the same batches, finished rows leave;
- sorted: batches of sources that are alike in length, as our scheduler and CTranslate2 make them.

CTranslate2 is given all rows at once and batches them itself. Batches have the same size everywhere:

    python -m benchmarks.lengths [--contenders int8-static,ct2-int8] [--batch 32] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from benchmarks.peers import builds
from benchmarks.peers.arguments import names, numbers, override
from benchmarks.peers.contenders import Contender, named, running
from benchmarks.peers.countdown import Row, countdown, countdown_rows
from benchmarks.peers.engines import Call
from benchmarks.peers.worker import Answer, Worker
from model_export.config import load_config
from model_export.contract import cpu_name

ROWS, SHORTEST, LONGEST = 256, 5, 60
FLOOR_OF_STATIC, FLOOR_OF_CTRANSLATE2 = 1.3, 1.0
"""How many times the useful tokens a second our batches should at least give where rows may leave."""
STATIC, ARRIVAL, SORTED, OWN = "static", "as they come", "sorted", "its own batching"


@dataclass(frozen=True)
class Way:
    """One contender and how it is given the rows: ``order`` of them in each of ``calls``."""

    contender: str
    batching: str
    order: list[list[int]]
    calls: list[Call]


@dataclass(frozen=True)
class Measured:
    """All rows, once a round."""

    contender: str
    batching: str
    batch: int
    wall: list[float]
    cpu: list[float]
    right_rows: float  # share that was answered with exactly its countdown

    def tokens_per_second(self, clock: str, useful: int) -> float:
        """Of ``useful`` tokens in all rows together; median of the rounds."""
        return useful / statistics.median(self.wall if clock == "wall" else self.cpu)


def ways(contender: Contender, rows: Sequence[Row], batch: int) -> list[Way]:
    """In what ways a contender takes part."""
    arrival = list(range(len(rows)))
    if contender.engine == "ctranslate2":
        return [_way(contender, OWN, [arrival], rows, max_batch_size=batch)]
    by_size = sorted(arrival, key=lambda index: len(rows[index].source))
    as_they_come, alike = (
        [order[start : start + batch] for start in range(0, len(rows), batch)] for order in (arrival, by_size)
    )
    return [
        _way(contender, STATIC, as_they_come, rows),
        _way(contender, ARRIVAL, as_they_come, rows),
        _way(contender, SORTED, alike, rows),
    ]


def _way(
    contender: Contender, batching: str, order: list[list[int]], rows: Sequence[Row], max_batch_size: int = 0
) -> Way:
    calls = []
    for indices in order:
        longest = max(rows[index].length for index in indices) + 1  # and EOS
        least, most = (longest, longest) if batching == STATIC else (0, LONGEST + 1)
        calls.append(Call([rows[index].source for index in indices], 1, least, most, max_batch_size))
    return Way(contender.name, batching, order, calls)


def measure(
    worker_of: dict[str, Worker], rows: Sequence[Row], batch: int, todo: list[Way], rounds: int
) -> list[Measured]:
    """All ways in turns, the first round uncounted."""
    answers: list[list[list[Answer]]] = [[] for _ in todo]  # [way][round][call]
    for turn in range(rounds + 1):
        for index, way in enumerate(todo):
            found = [worker_of[way.contender].ask(call) for call in way.calls]
            if turn:
                answers[index].append(found)
    return [_measured(way, found, rows, batch) for way, found in zip(todo, answers, strict=True)]


def _measured(way: Way, answers: list[list[Answer]], rows: Sequence[Row], batch: int) -> Measured:
    right = 0
    for indices, answer in zip(way.order, answers[0], strict=True):
        for index, tokens in zip(indices, answer.tokens, strict=True):
            wanted = countdown(rows[index].length)
            right += tokens[: len(wanted)] == wanted and (way.batching == STATIC or len(tokens) == len(wanted))
    return Measured(
        way.contender,
        way.batching,
        batch,
        wall=[sum(answer.wall for answer in found) for found in answers],
        cpu=[sum(answer.cpu for answer in found) for found in answers],
        right_rows=right / len(rows),
    )


def ratio(of: Sequence[Measured], fast: tuple[str, str], slow: tuple[str, str], clock: str) -> float | None:
    """How many times as many useful tokens a second; None if either was not measured."""
    speeds = {(one.contender, one.batching): one.tokens_per_second(clock, 1) for one in of}
    return speeds[fast] / speeds[slow] if fast in speeds and slow in speeds else None


def show(of: Sequence[Measured], useful: int, clock: str, console: Console) -> None:
    """A table of one batch size, and the ratios that count."""
    title = f"{ROWS} rows of {SHORTEST} to {LONGEST} tokens, batches of {of[0].batch}"
    table = Table(
        Column("contender", no_wrap=True),
        Column("batching", no_wrap=True),
        f"useful tokens/s ({clock})",
        f"times its static (floor {FLOOR_OF_STATIC:g})",
        f"times ct2-int8 (floor {FLOOR_OF_CTRANSLATE2:g})",
        "right rows",
    )
    table.title = title
    for one in of:
        key = (one.contender, one.batching)
        against = (ratio(of, key, (one.contender, STATIC), clock), ratio(of, key, ("ct2-int8", OWN), clock))
        shown = ["-" if value is None else f"{value:.2f}" for value in against]
        speed = f"{one.tokens_per_second(clock, useful):.0f}"
        table.add_row(one.contender, one.batching, speed, *shown, f"{100 * one.right_rows:.1f} %")
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", type=names, default=["int8-static", "ct2-int8"])
    parser.add_argument("--batch", type=numbers, default=[32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=0, help="all contenders run on it")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu where others use the core too")
    parser.add_argument("--set", type=override, action="append", default=[], metavar="model.KEY=N", help="another size")
    parser.add_argument("--json", type=Path)
    arguments, console = parser.parse_args(), Console()

    overrides = dict(arguments.set)
    vocabulary = load_config("transformer", overrides).model.vocabulary_size
    rows = countdown_rows(ROWS, SHORTEST, LONGEST, vocabulary)
    folder = builds.trained("transformer", overrides, rows)
    useful = sum(row.length for row in rows)
    contenders = named(arguments.contenders)
    found: list[Measured] = []
    with running(contenders, folder, arguments.core) as workers:
        for batch in arguments.batch:
            todo = [way for contender in contenders for way in ways(contender, rows, batch)]
            measured = measure(workers, rows, batch, todo, arguments.rounds)
            show(measured, useful, arguments.clock, console)
            found += measured
    if arguments.json:
        result = {"processor": cpu_name(), "useful_tokens": useful, "measured": [asdict(one) for one in found]}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
