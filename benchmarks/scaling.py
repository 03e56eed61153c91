"""How the cost of a call grows: with source, answer, vocabulary, beams and batch, one of them at a time.

Around a call of batch 8, source 32, 32 new tokens, greedy, vocabulary 8,000. ``transformer`` in every engine, each in a
process of its own on one core, in turns; ours run ``generate_ids`` of an exported artifact:

    python -m benchmarks.scaling [--contenders float32,int8] [--axes source,batch] [--plot FILE.png] [--json FILE]

The table and the plot show ms of a call; what a doubling costs is the ratio to the value before.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.peers import builds
from benchmarks.peers.arguments import names, override
from benchmarks.peers.contenders import Contender, named, running
from benchmarks.peers.engines import Call
from benchmarks.peers.random_model import random_sources
from benchmarks.peers.worker import take_turns
from model_export.config import load_config
from model_export.contract import cpu_name

BASE: Final[Mapping[str, int]] = {"source": 32, "tokens": 32, "vocabulary": 8_000, "beams": 1, "batch": 8}
AXES: Final[Mapping[str, Sequence[int]]] = {
    "source": (8, 16, 32, 64, 128, 256, 512),
    "tokens": (8, 16, 32, 64, 128, 256),
    "vocabulary": (8_000, 16_000, 32_000, 64_000),
    "beams": (1, 2, 4, 8, 16),
    "batch": (1, 2, 4, 8, 16, 32, 64, 128),
}


@dataclass(frozen=True)
class Point:
    """One contender at one value of one axis, all else as in ``BASE``."""

    axis: str
    value: int
    contender: str
    wall: list[float]  # seconds of each call
    cpu: list[float]

    def median(self, clock: str) -> float:
        """Median seconds of a call on ``clock``."""
        return statistics.median(self.wall if clock == "wall" else self.cpu)


def call_at(shape: Mapping[str, int]) -> Call:
    """The call of these sizes."""
    sources = random_sources(shape["batch"], shape["source"], shape["vocabulary"])
    return Call(sources, shape["beams"], shape["tokens"], shape["tokens"])


def measure(
    arguments: argparse.Namespace,
    contenders: Sequence[Contender],
    vocabulary: int,
    shapes: Mapping[tuple[str, int], Call],
) -> list[Point]:
    """All calls to models of one vocabulary, by axis and value, each told as soon as it is done."""
    overrides = dict(arguments.set)
    if vocabulary != load_config("transformer", overrides).model.vocabulary_size:  # or else `decode` has made it
        overrides["model.vocabulary_size"] = vocabulary
    folder = builds.trained("transformer", overrides)
    points = []
    with running(contenders, folder, arguments.core) as workers:
        for (axis, value), call in shapes.items():
            answers = take_turns(workers, call, dict.fromkeys(workers, arguments.rounds), warmup=1)
            for name, found in answers.items():
                wall, cpu = [answer.wall for answer in found], [answer.cpu for answer in found]
                points.append(Point(axis, value, name, wall, cpu))
                print(f"{axis} {value:,}: {name} {1e3 * points[-1].median(arguments.clock):.1f} ms", flush=True)
    return points


def shapes_by_vocabulary(axes: Sequence[str]) -> dict[int, dict[tuple[str, int], Call]]:
    """Every call of the axes, by the vocabulary of the model that it goes to."""
    found: dict[int, dict[tuple[str, int], Call]] = {}
    for axis in axes:
        for value in AXES[axis]:
            shape = {**BASE, axis: value}
            found.setdefault(shape["vocabulary"], {})[axis, value] = call_at(shape)
    return found


def axis_table(axis: str, points: Sequence[Point], clock: str) -> Table:
    """One row for every value: ms of each contender, and the ratio to the value before."""
    contenders = list(dict.fromkeys(point.contender for point in points))
    others = ", ".join(f"{name} {value}" for name, value in BASE.items() if name != axis)
    table = Table(axis, *(f"{name} ms ({clock})" for name in contenders), title=f"{axis} ({others})")
    medians = {(point.value, point.contender): 1e3 * point.median(clock) for point in points}
    before: dict[str, float] = {}
    for value in sorted({point.value for point in points}):
        cells = []
        for name in contenders:
            now = medians[value, name]
            cells.append(f"{now:.1f}" + (f"  x{now / before[name]:.2f}" if name in before else ""))
            before[name] = now
        table.add_row(f"{value:,}", *cells)
    return table


def plot(points: Sequence[Point], clock: str, path: Path) -> None:
    """A panel for every axis, both scales logarithmic; matplotlib chooses the format by the name of the file."""
    import matplotlib as mpl  # noqa: PLC0415  who wants no plot needs none of it

    mpl.use("Agg")
    from matplotlib import pyplot, ticker  # noqa: PLC0415

    axes = list(dict.fromkeys(point.axis for point in points))
    figure, panels = pyplot.subplots(
        1, len(axes), figsize=(4 * len(axes), 4), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, panel in zip(axes, panels[0], strict=True):
        here = [point for point in points if point.axis == axis]
        for name in dict.fromkeys(point.contender for point in here):
            line = sorted((point.value, 1e3 * point.median(clock)) for point in here if point.contender == name)
            panel.plot(*zip(*line, strict=True), marker="o", label=name)
        panel.set(xscale="log", yscale="log", xlabel=axis)
        values = sorted({point.value for point in here})
        panel.set_xticks(values, [f"{value:,}" for value in values], rotation=45)
        panel.minorticks_off()
        panel.grid(visible=True, which="both", alpha=0.3)
    panels[0][0].set_ylabel("ms a call")
    panels[0][0].yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    panels[0][0].yaxis.set_major_formatter("{x:g}")
    panels[0][0].legend()
    figure.savefig(path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", type=names, default=["int8-static", "ct2-int8"])
    parser.add_argument("--axes", type=names, default=list(AXES), help=", ".join(AXES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", type=int, default=0, help="all contenders run on it")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu where others use the core too")
    parser.add_argument("--set", type=override, action="append", default=[], metavar="model.KEY=N", help="another size")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    arguments, console = parser.parse_args(), Console()

    unknown = [axis for axis in arguments.axes if axis not in AXES]
    if unknown:
        raise SystemExit(f"no axis {', '.join(unknown)}: there are {', '.join(AXES)}")
    contenders = named(arguments.contenders)
    points: list[Point] = []
    for vocabulary, shapes in shapes_by_vocabulary(arguments.axes).items():
        points += measure(arguments, contenders, vocabulary, shapes)
    for axis in arguments.axes:
        console.print(axis_table(axis, [point for point in points if point.axis == axis], arguments.clock))
    if arguments.plot:
        plot(points, arguments.clock, arguments.plot)
    if arguments.json:
        result = {"processor": cpu_name(), "base": dict(BASE), "measured": [asdict(point) for point in points]}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
