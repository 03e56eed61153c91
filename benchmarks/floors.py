"""Ratios of what ``benchmarks.decode`` measures, beside the floors that we hold ourselves to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich.table import Column, Table

from benchmarks.peers.contenders import NAIVE, OURS

Case = tuple[int, int]
"""Beam size and batch."""
Ratios = Mapping[tuple[str, str], Mapping[Case, float]]
"""How many times as fast the first of two contenders is as the second, by case."""

FLOORS: Final[Ratios] = {
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
"""Of Transformers: where we want to be at least, not a measurement."""

_WITHOUT_FLOOR = (
    ("int8-static", "hf-int8"),
    *((ours.name, NAIVE.name) for ours in OURS if ours.name != "int8-static"),
)


def ratios(medians: Mapping[tuple[str, Case], float]) -> Ratios:
    """Of the pairs in ``FLOORS`` and some more, as far as ``medians`` (seconds, by contender and case) has both."""
    cases = sorted({case for _, case in medians})
    found = {
        (fast, slow): {
            case: medians[slow, case] / medians[fast, case]
            for case in cases
            if (slow, case) in medians and (fast, case) in medians
        }
        for fast, slow in (*FLOORS, *_WITHOUT_FLOOR)
    }
    return {pair: values for pair, values in found.items() if values}


def ratio_tables(model: str, found: Ratios) -> Iterator[Table]:
    """A table for each beam size, with the floors of Transformers."""
    cases = sorted({case for values in found.values() for case in values})
    for beam_size in sorted({beams for beams, _ in cases}):
        search = "greedy" if beam_size == 1 else f"{beam_size} beams"
        here = [case for case in cases if case[0] == beam_size]
        title = f"{model}, {search}: times faster (floor)"
        table = Table(Column("by medians", no_wrap=True), *(f"batch {batch}" for _, batch in here), title=title)
        for (fast, slow), values in found.items():
            floors = FLOORS.get((fast, slow), {}) if model.startswith("transformer") else {}
            table.add_row(f"{fast} than {slow}", *_cells(here, values, floors))
        yield table


def _cells(cases: Sequence[Case], values: Mapping[Case, float], floors: Mapping[Case, float]) -> Iterator[str]:
    for case in cases:
        ratio, floor = values.get(case), floors.get(case)
        if ratio is None:
            yield "-"
        elif floor is None:
            yield f"{ratio:.2f}"
        else:
            shown = f"{ratio:.2f} ({floor:g})"
            yield shown if ratio >= floor else f"[bold red]{shown}[/]"
