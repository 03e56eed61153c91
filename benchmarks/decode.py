"""What decoding costs: the same weights in every engine, source 20, exactly 32 tokens, one core, greedy and 4 beams.

Each contender runs in a process of its own, pinned to one core with one thread; they take turns. Ours run
``generate_ids`` of an exported artifact in a TF1 session; the naive loop is one ``tf.function``. Peers need the extra
``bench``. Exits 1 when a contender that computes in float32 finds other tokens than the first of them:

    python -m benchmarks.decode [--models transformer,rnn] [--contenders int8,ct2-int8] [--batch 1,8,32] [--beams 1,4]

``--profile CONTENDER`` (or the folder of an artifact) shows instead where the time goes, by type of operation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from benchmarks.op_times import op_times, table
from benchmarks.peers import builds
from benchmarks.peers.arguments import names, numbers
from benchmarks.peers.contenders import CONTENDERS, NAIVE, OURS, Contender, named, running
from benchmarks.peers.engines import Call, Ids
from benchmarks.peers.random_model import random_sources
from benchmarks.peers.worker import Answer, take_turns
from model_export.artifact.calls import Row, generate_ids_inputs
from model_export.config import load_config
from model_export.contract import cpu_name

FLOORS: Mapping[tuple[str, str], Mapping[tuple[int, int], float]] = {
    (fast, slow): dict(zip([(1, 1), (1, 8), (1, 32), (4, 1), (4, 8), (4, 32)], floors, strict=False))
    for fast, slow, *floors in (
        ("int8-static", "ct2-int8", 1.42, 1.30, 1.10, 1.30, 1.05, 1.05),
        ("int8", "ct2-int8", 1.33, 1.15, 0.95, 1.07, 0.95, 0.95),
        ("int8-static", "ct2-float32", 4.4, 3.9, 3.2, 3.9, 3.0, 2.3),
        ("int8-static", "hf-float32", 6.5, 5.9, 3.8, 6.9, 4.1, 3.2),
        ("int8-static", "naive", 17, 37, 45, 28, 49),
        ("float32", "ct2-float32", 1.0, 0.9, 1.05, 0.9, 1.0, 1.0),
        ("bfloat16", "float32", 2.2, 2.4, 1.7, 2.0, 1.8, 1.6),
    )
}
"""How many times as fast the first must at least be, by (beam size, batch): where we want to be, not a measurement."""

_NAIVE_MOST_ROWS = 32
"""Rows x beams at which the naive loop still takes part: its calls take a minute beyond."""
_NAIVE_ROUNDS = 3


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
    turns = {one.name: min(rounds, _NAIVE_ROUNDS) if one is NAIVE else rounds for one in taking_part}
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
    title = f"{first.model}, {search}, batch {first.batch}, {tokens} tokens"
    table = Table(
        Column("contender", no_wrap=True),
        f"median ms ({clock})",
        "min",
        "max",
        "tokens/s",
        "same rows",
        "same tokens",
        title=title,
    )
    for one in case:
        seconds = one.wall if clock == "wall" else one.cpu
        figures = [f"{1e3 * value:.1f}" for value in (one.median(clock), min(seconds), max(seconds))]
        shares = [f"{100 * share:.1f} %" for share in (one.same_rows, one.same_tokens)]
        table.add_row(one.contender, *figures, f"{one.batch * tokens / one.median(clock):.0f}", *shares)
    return table


def ratios(measured: Sequence[Measured], clock: str) -> dict[tuple[str, str], dict[tuple[int, int], float]]:
    """Of the pairs in ``FLOORS``, and of all of ours over the naive loop, as far as both were measured."""
    medians = {(one.contender, (one.beam_size, one.batch)): one.median(clock) for one in measured}
    cases = sorted({(one.beam_size, one.batch) for one in measured})
    found = {
        (fast, slow): {
            case: medians[slow, case] / medians[fast, case]
            for case in cases
            if (slow, case) in medians and (fast, case) in medians
        }
        for fast, slow in [*FLOORS, *((ours.name, NAIVE.name) for ours in OURS if ours.name != "int8-static")]
    }
    return {pair: values for pair, values in found.items() if values}


def ratio_table(model: str, found: Mapping[tuple[str, str], Mapping[tuple[int, int], float]]) -> Table:
    """Measured ratios, each with its floor where there is one."""
    cases = sorted({case for values in found.values() for case in values})
    headings = [f"{'greedy' if beams == 1 else f'{beams} beams'} B{batch}" for beams, batch in cases]
    table = Table(Column("times faster (floor)", no_wrap=True), *headings, title=f"{model}: ratios of medians")
    for (fast, slow), values in found.items():
        floors = FLOORS.get((fast, slow), {}) if model == "transformer" else {}
        table.add_row(f"{fast} against {slow}", *(_with_floor(values.get(case), floors.get(case)) for case in cases))
    return table


def _with_floor(ratio: float | None, floor: float | None) -> str:
    if ratio is None:
        return "-"
    if floor is None:
        return f"{ratio:.2f}"
    shown = f"{ratio:.2f} ({floor:g})"
    return shown if ratio >= floor else f"[bold red]{shown}[/]"


def as_json(
    arguments: argparse.Namespace,
    measured: Mapping[str, Sequence[Measured]],
    found: Mapping[str, Mapping[tuple[str, str], Mapping[tuple[int, int], float]]],
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
    folder, vocabulary = builds.trained(model), load_config(model).model.vocabulary_size
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
        folder, vocabulary = builds.trained(model), load_config(model).model.vocabulary_size
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
                console.print(table(title, *op_times(artifact, inputs, arguments.rounds)))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--models", type=names, default=["transformer"], help="also rnn, rnn-attention")
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
    found = {model: ratios(cases, arguments.clock) for model, cases in measured.items()}
    for model, values in found.items():
        if values:
            console.print(ratio_table(model, values))
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(arguments, measured, found), indent=1) + "\n")
    wrong = [one for cases in measured.values() for one in cases if CONTENDERS[one.contender].is_exact]
    wrong = [one for one in wrong if one.same_rows < 1.0]
    if wrong:
        cases = ", ".join(f"{one.contender} ({one.model}, beam {one.beam_size}, batch {one.batch})" for one in wrong)
        raise SystemExit(f"computes in float32 and finds other tokens: {cases}")


if __name__ == "__main__":
    main()
