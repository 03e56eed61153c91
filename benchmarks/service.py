"""Sentences through whole servers: ours beside CTranslate2 and Hugging Face behind FastAPI, over HTTP on two cores.

Every server has the same weights (``--model``, by default models/en-fr), takes a text with options and answers a text.
They run one at a time, in turns, each started anew in every round. Clients in this process, which ask again as soon as
they are answered, send the first column of a TSV shuffled, with options of every kind:

    python -m benchmarks.service --data valid.tsv [--calibrate train.tsv] [--contenders embedded,ct2-batched]
                                 [--clients 1,8,32,64] [--rounds 5] [--seconds 10] [--plot FILE.png] [--json FILE]

``embedded`` and ``tf-serving`` are ours in int8 with static scales; the latter's model server is that of the tests,
unless ``--tf-serving HOST:PORT`` names one that serves the artifact under the model's name. ``ct2-documented`` and
``ct2-batched`` compute in int8 too, ``hf`` in float32. Peers need the extra ``bench``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Column, Table

from benchmarks.peers.arguments import names, numbers
from benchmarks.peers.served import SERVED, Setup, known
from benchmarks.servers import REPOSITORY
from benchmarks.service_load import MIXES, Asked, FirstAnswers, Measured, measure, requests, sentences, warm_up
from model_export.contract import cpu_name

MODEL: Final = REPOSITORY / "models" / "en-fr"
WARM_UP_REQUESTS: Final = 256
PACKAGES: Final = ("tensorflow-cpu", "ctranslate2", "transformers", "torch", "fastapi", "uvicorn")

Medians = Mapping[tuple[str, int], Mapping[str, float]]
"""Of every figure over the rounds, by contender and clients."""


class Floor(NamedTuple):
    """What we hold ourselves to at so many clients; of the slow ones the fastest counts."""

    fast: str
    slow: Sequence[str]
    clients: int
    times: float  # sentences/s
    stretch: float | None = None
    in_time: bool = False  # p99 may be no longer


FLOORS: Final = (
    Floor("embedded", ("ct2-documented", "ct2-batched"), 32, 1.2, stretch=2.0, in_time=True),
    Floor("tf-serving", ("embedded",), 32, 0.85),
)


def compare(arguments: argparse.Namespace, setup: Setup, asked: Sequence[Asked], console: Console) -> list[Measured]:
    """All rounds."""
    found, first = [], FirstAnswers()
    for turn in range(arguments.rounds):
        for contender in arguments.contenders:
            console.print(f"round {turn + 1} of {arguments.rounds}: {contender}", style="dim")
            with SERVED[contender](setup) as running:
                asyncio.run(warm_up(running, asked[:WARM_UP_REQUESTS], max(arguments.clients)))
                for clients in arguments.clients:
                    measured = measure(contender, running, asked, clients, arguments.seconds, first)
                    found.append(asyncio.run(measured))
    return found


def medians(measured: Sequence[Measured]) -> Medians:
    """Over the rounds."""
    rounds: dict[tuple[str, int], list[dict[str, float]]] = {}
    for one in measured:
        figures = asdict(one)
        rounds.setdefault((figures.pop("contender"), figures.pop("clients")), []).append(figures)
    return {
        place: {name: statistics.median(each[name] for each in turns) for name in turns[0]}
        for place, turns in rounds.items()
    }


def table(found: Medians) -> Table:
    """A row for each contender, clients by clients."""
    headings = ("sentences/s", "p50 ms", "p95", "p99", "CPU ms", "of clients", "peak MB", "same answers")
    columns = [Column(heading, justify="right") for heading in headings]
    shown = Table("clients", Column("contender", no_wrap=True), *columns, title="medians; CPU time by sentence")
    for clients in dict.fromkeys(clients for _, clients in found):
        for (contender, count), one in found.items():
            if count == clients:
                times = [f"{one[name]:.1f}" for name in ("p50_ms", "p95_ms", "p99_ms")]
                cpu = [f"{one[name]:.2f}" for name in ("cpu_ms", "client_cpu_ms")]
                rest = f"{one['peak_mb']:.0f}", f"{100 * one['same']:.1f} %"
                shown.add_row(str(clients), contender, f"{one['sentences_per_s']:.1f}", *times, *cpu, *rest)
        shown.add_section()
    return shown


def verdicts(found: Medians) -> list[str]:
    """A line for every floor whose contenders were measured, red where it is missed."""
    lines = []
    for floor in FLOORS:
        slow = [found[name, floor.clients] for name in floor.slow if (name, floor.clients) in found]
        fast = found.get((floor.fast, floor.clients))
        if fast is None or not slow:
            continue
        best = max(slow, key=lambda one: one["sentences_per_s"])
        name = next(name for name in floor.slow if found.get((name, floor.clients)) is best)
        ratio, late = fast["sentences_per_s"] / best["sentences_per_s"], fast["p99_ms"] / best["p99_ms"]
        line = (
            f"{floor.clients} clients: {floor.fast} {ratio:.2f} times the sentences/s of {name} (floor {floor.times:g}"
        )
        line += ")" if floor.stretch is None else f", stretch {floor.stretch:g})"
        line += f" at {late:.2f} times its p99 (floor 1)" if floor.in_time else ""
        is_met = ratio >= floor.times and (late <= 1.0 or not floor.in_time)
        lines.append(line if is_met else f"[bold red]{line}[/]")
    return lines


def plot(found: Medians, path: Path) -> None:
    """Sentences/s and p99 by clients; matplotlib chooses the format by the name of the file."""
    import matplotlib as mpl  # noqa: PLC0415  who wants no plot needs none of it

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    clients = list(dict.fromkeys(clients for _, clients in found))
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for panel, figure_name, label in zip(panels, ("sentences_per_s", "p99_ms"), ("sentences/s", "p99 ms"), strict=True):
        for contender in dict.fromkeys(contender for contender, _ in found):
            values = [found[contender, count][figure_name] for count in clients]
            panel.plot(clients, values, marker="o", label=contender)
        panel.set(xscale="log", yscale="log", xlabel="clients", ylabel=label)
        panel.set_xticks(clients, [str(count) for count in clients])
        panel.minorticks_off()
        panel.grid(visible=True, which="both", alpha=0.3)
    panels[0].legend()
    figure.savefig(path)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data", type=Path, required=True, help="TSV of sentence pairs")
    found.add_argument("--calibrate", type=Path, help="TSV to measure static scales by; by default that of --data")
    found.add_argument("--model", type=Path, default=MODEL, help="a trained Transformer's folder")
    found.add_argument("--contenders", type=names, default=list(SERVED), help=", ".join(SERVED))
    found.add_argument("--clients", type=numbers, default=[1, 8, 32, 64])
    found.add_argument("--mix", choices=MIXES, default="mixed", help="the options that requests have")
    found.add_argument("--rounds", type=int, default=5)
    found.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    found.add_argument("--cores", type=int, default=2, help="of the servers; clients take others if there are any")
    found.add_argument("--tf-serving", metavar="HOST:PORT", help="a model server; only the gateway's CPU counts then")
    found.add_argument("--batched", type=names, default=[], metavar="OPTION=N", help="window_ms, max_batch_tokens")
    found.add_argument("--plot", type=Path)
    found.add_argument("--json", type=Path)
    return found


def main() -> None:
    """Measure and print."""
    arguments, console = parser().parse_args(), Console(width=120)
    known(arguments.contenders)
    usable = sorted(os.sched_getaffinity(0))
    cores, others = usable[: arguments.cores], usable[arguments.cores :]
    os.sched_setaffinity(0, others or cores)
    setup = Setup(
        arguments.model, arguments.calibrate or arguments.data, cores, arguments.tf_serving, arguments.batched
    )
    asked = requests(sentences(arguments.data), MIXES[arguments.mix])
    measured = compare(arguments, setup, asked, console)
    found = medians(measured)
    console.print(table(found), *verdicts(found), sep="\n")
    if arguments.plot:
        plot(found, arguments.plot)
    if arguments.json:
        installed = {each.name.lower().replace("_", "-"): each.version for each in distributions()}
        result = {
            "processor": cpu_name(),
            "versions": {name: installed[name] for name in PACKAGES if name in installed},
            "arguments": {key: value for key, value in vars(arguments).items() if key not in ("json", "plot")},
            "measured": [asdict(one) for one in measured],
        }
        arguments.json.write_text(json.dumps(result, indent=1, default=str) + "\n")  # paths


if __name__ == "__main__":
    main()
