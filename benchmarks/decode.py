"""What decoding costs: the same weights in every engine, source 20, exactly 32 tokens, one core, greedy and 4 beams.

Each contender runs in a process of its own, pinned to one core with one thread; they take turns, the slow ones in fewer
rounds. Ours run ``generate_ids`` of an exported artifact in a TF1 session; the naive loop is one ``tf.function``. Peers
need the extra ``bench``. Exits 1 when a contender that computes in float32 finds other tokens than the first of them:

    python -m benchmarks.decode [--models transformer,rnn] [--contenders int8,ct2-int8] [--batch 1,8,32] [--beams 1,4]

``--profile CONTENDER`` (or the folder of an artifact) shows instead where the time goes, by type of operation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from benchmarks.floors import Ratios, ratio_tables, ratios
from benchmarks.op_times import op_times
from benchmarks.op_times import table as op_table
from benchmarks.peers import builds
from benchmarks.peers.arguments import names, numbers
from benchmarks.peers.contenders import CONTENDERS, NAIVE, Contender, named, running
from benchmarks.peers.engines import Call, Ids
from benchmarks.peers.random_model import random_sources
from benchmarks.peers.worker import Answer, take_turns
from model_export.artifact.calls import Row, generate_ids_inputs
from model_export.config import load_config
from model_export.contract import cpu_name

_NAIVE_MOST_ROWS = 32
"""Rows x beams at which the naive loop still takes part: its calls take a minute beyond."""


@dataclass(frozen=True)
class Measured:
    """One contender in one case."""

    model: str
    beam_size: int
    batch: int
    contender: str
    wall: list[float]  # seconds of each call
    cpu: list[float]
    same_rows: float  # share of rows with all tokens as the reference has them
    same_tokens: float

    def median(self, clock: str) -> float:
        """Median seconds of a call on ``clock``."""
        return statistics.median(self.wall if clock == "wall" else self.cpu)


def measure_case(
    contenders: Sequence[Contender], workers: Mapping[str, Any], model: str, call: Call, rounds: int
) -> list[Measured]:
    """Run one case; contenders are compared with the first that is exact, or else with the first."""
    rows = len(call.sources)
    taking_part = [one for one in contenders if one is not NAIVE or rows * call.beam_size <= _NAIVE_MOST_ROWS]
    turns = {one.name: min(rounds, one.most_rounds or rounds) for one in taking_part}
    answers = take_turns({name: workers[name] for name in turns}, call, turns)
    reference = next((one for one in taking_part if one.is_exact), taking_part[0]).name
    return [_measured(model, call, name, found, answers[reference][0].tokens) for name, found in answers.items()]


def _measured(model: str, call: Call, name: str, answers: Sequence[Answer], expected: Ids) -> Measured:
    tokens = answers[0].tokens
    if any(len(row) != call.max_new_tokens for row in tokens):
        raise SystemExit(f"{name} gave {sorted(set(map(len, tokens)))} tokens a row, not {call.max_new_tokens}")
    pairs = list(zip(tokens, expected, strict=True))
    return Measured(
        model=model,
        beam_size=call.beam_size,
        batch=len(call.sources),
        contender=name,
        wall=[answer.wall for answer in answers],
        cpu=[answer.cpu for answer in answers],
        same_rows=statistics.mean(row == other for row, other in pairs),
        same_tokens=statistics.mean(one == two for row, other in pairs for one, two in zip(row, other, strict=True)),
    )


def case_table(case: Sequence[Measured], tokens: int, clock: str) -> Table:
    """One row for every contender."""
    first = case[0]
    search = "greedy" if first.beam_size == 1 else f"{first.beam_size} beams"
    title = f"{first.model}, {search}, batch {first.batch}, {tokens} tokens: ms of a call ({clock})"
    headings = ("runs", "median", "min", "max", "tokens / s", "% same rows", "% same tokens")
    table = Table(Column("contender", no_wrap=True), *(Column(one, justify="right") for one in headings), title=title)
    for one in case:
        seconds = one.wall if clock == "wall" else one.cpu
        figures = [f"{1e3 * value:.1f}" for value in (one.median(clock), min(seconds), max(seconds))]
        shares = [f"{100 * share:.1f}" for share in (one.same_rows, one.same_tokens)]
        speed = f"{one.batch * tokens / one.median(clock):.0f}"
        table.add_row(one.contender, f"{len(seconds)}", *figures, speed, *shares)
    return table


def other_tokens(measured: Iterable[Measured]) -> list[str]:
    """Who computes in float32 and found other tokens than the reference, and where."""
    return [
        f"{one.contender} ({one.model}, beam size {one.beam_size}, batch {one.batch})"
        for one in measured
        if CONTENDERS[one.contender].is_exact and one.same_rows < 1.0
    ]


def as_json(
    arguments: argparse.Namespace,
    measured: Mapping[str, Sequence[Measured]],
    found: Mapping[str, Ratios],
) -> dict[str, Any]:
    """Everything that was measured, and on what."""
    peers = ("tensorflow-cpu", "ctranslate2", "transformers", "torch")
    installed = {distribution.name: distribution.version for distribution in distributions()}
    return {
        "processor": cpu_name(),
        "versions": {name: installed[name] for name in peers if name in installed},
        "arguments": {key: value for key, value in vars(arguments).items() if key != "json"},
        "measured": [asdict(one) for cases in measured.values() for one in cases],
        "ratios": [
            {"model": model, "fast": fast, "slow": slow, "beam_size": beams, "batch": batch, "ratio": ratio}
            for model, pairs in found.items()
            for (fast, slow), cases in pairs.items()
            for (beams, batch), ratio in cases.items()
        ],
    }


def measure_model(arguments: argparse.Namespace, model: str, console: Console) -> list[Measured]:
    """All cases of one model, each shown as soon as it is done."""
    folder, vocabulary = (
        builds.trained(*builds.configured(model)),
        load_config(*builds.configured(model)).model.vocabulary_size,
    )
    contenders = named(arguments.contenders)
    if not model.startswith("transformer"):
        contenders = [one for one in contenders if one.engine in ("malgil", "naive")]  # no peer has such a model
    found: list[Measured] = []
    with running(contenders, folder, arguments.core) as workers:
        for beam_size in arguments.beams:
            for batch in arguments.batch:
                sources = random_sources(batch, arguments.source, vocabulary)
                call = Call(sources, beam_size, arguments.tokens, arguments.tokens)
                case = measure_case(contenders, workers, model, call, arguments.rounds)
                console.print(case_table(case, arguments.tokens, arguments.clock))
                found += case
    return found


def show_profile(arguments: argparse.Namespace, console: Console) -> None:
    """``--profile``."""
    os.sched_setaffinity(0, {arguments.core})
    for model in arguments.models:
        folder, vocabulary = (
            builds.trained(*builds.configured(model)),
            load_config(*builds.configured(model)).model.vocabulary_size,
        )
        is_name = arguments.profile in CONTENDERS
        artifact = CONTENDERS[arguments.profile].build(folder) if is_name else Path(arguments.profile)
        for beam_size in arguments.beams:
            for batch in arguments.batch:
                options = {
                    "beam_size": beam_size,
                    "min_new_tokens": arguments.tokens,
                    "max_new_tokens": arguments.tokens,
                }
                sources = random_sources(batch, arguments.source, vocabulary)
                inputs = generate_ids_inputs([Row("", tuple(ids), options) for ids in sources])
                title = f"{model} {arguments.profile}, {beam_size} beams, batch {batch}, {arguments.tokens} tokens"
                console.print(op_table(title, *op_times(artifact, inputs, arguments.rounds)))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--models", type=names, default=["transformer"], help="also transformer-pre, rnn, rnn-attention")
    found.add_argument("--contenders", type=names, default=list(CONTENDERS), help=", ".join(CONTENDERS))
    found.add_argument("--batch", type=numbers, default=[1, 8, 32])
    found.add_argument("--beams", type=numbers, default=[1, 4])
    found.add_argument("--source", type=int, default=20, help="source tokens")
    found.add_argument("--tokens", type=int, default=32, help="new tokens")
    found.add_argument("--rounds", type=int, default=9)
    found.add_argument("--core", type=int, default=0, help="all contenders run on it")
    found.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu where others use the core too")
    found.add_argument("--profile", metavar="CONTENDER")
    found.add_argument("--json", type=Path)
    return found


def main() -> None:
    """Measure and print."""
    arguments, console = parser().parse_args(), Console()
    if arguments.profile:
        show_profile(arguments, console)
        return
    measured = {model: measure_model(arguments, model, console) for model in arguments.models}
    found = {}
    for model, cases in measured.items():
        medians = {(one.contender, (one.beam_size, one.batch)): one.median(arguments.clock) for one in cases}
        found[model] = ratios(medians)
        for table in ratio_tables(model, found[model]):
            console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(arguments, measured, found), indent=1) + "\n")
    wrong = other_tokens(one for cases in measured.values() for one in cases)
    if wrong:
        raise SystemExit(f"computes in float32 and finds other tokens: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
