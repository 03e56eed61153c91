"""Batches in the making: which of the rows that wait may run together, and when it is less work that they do.

Much of a call's time goes into its steps, however few rows take part, so that rows of unlike beam sizes had better
share one. But attention has as many places for each row as for the one with the most beams: to have them for many
rows may take longer than a call of their own.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from itertools import islice, pairwise
from typing import Final, NamedTuple

from service.batching.costs import BatchShape, Costs
from service.batching.jobs import Entry

LOOKED_AT: Final = 4
"""A batch is chosen from at most so many times the rows that it may have."""


class Draft(NamedTuple):
    """Rows that may run together, at least one."""

    entries: Sequence[Entry]
    group: Hashable  # of the rows with the most beams, whose calls are like this one
    beams: int  # of those
    shape: BatchShape
    seconds: float  # predicted
    time_left: float  # seconds until the deadline of those that the draft began with; infinity where nothing helps them


def fill(
    first: Entry, companions: Iterable[Entry], costs: Costs, now: float, most: int
) -> tuple[Draft, Sequence[Entry]]:
    """``first`` and companions, rows of its group, within ``most`` rows, padded positions, and the time of ``first``.

    Returns:
        The draft, and companions that are too late.
    """
    entries, shape, late = [first], BatchShape().with_row(first.cost), []
    group, time_left = first.row.group, first.job.deadline - now
    max_batch_tokens = costs.bounds(group).tokens
    seconds = costs.batch_seconds(group, shape)
    if seconds > time_left:
        time_left = math.inf  # nothing helps it any more, if the prediction is right
    for entry in islice(companions, LOOKED_AT * most):
        if len(entries) == most:
            break
        if entry.job.deadline <= now:
            late.append(entry)
            continue
        larger = shape.with_row(entry.cost)
        if larger.padded_positions <= max_batch_tokens:
            longer = costs.batch_seconds(group, larger)
            if longer <= time_left:
                entries.append(entry)
                shape, seconds = larger, longer
    return Draft(entries, group, first.row.beams, shape, seconds, time_left), late


def join(first: Draft, others: Iterable[Draft], costs: Costs) -> Draft:
    """``first`` with those of the ``others``, whose rows may share its call, for which that is less work.

    Of all that may be joined, what saves the most is joined first, others with others too: what would save more
    elsewhere is left for a call of its own.
    """
    drafts = sorted((first, *others), key=lambda draft: draft.beams)
    while len(drafts) > 1:
        joined = [_joined(narrow, wide, costs) for narrow, wide in pairwise(drafts)]
        saved = [
            -math.inf if one is None else narrow.seconds + wide.seconds - one.seconds
            for one, (narrow, wide) in zip(joined, pairwise(drafts), strict=True)
        ]
        place = max(range(len(saved)), key=saved.__getitem__)
        best = joined[place]
        if best is None or saved[place] <= 0.0:
            break
        drafts[place : place + 2] = [best]
    return next(draft for draft in drafts if first.entries[0] in draft.entries)


def _joined(narrow: Draft, wide: Draft, costs: Costs) -> Draft | None:
    """Both as one; None where they must not, it would be too large or too late, or nobody knows what it takes."""
    entries = [*narrow.entries, *wide.entries]
    if any(entry.row.kin is None for entry in entries):  # as what waits from before a version was replaced
        return None
    if not (costs.trusted(narrow.group) and costs.trusted(wide.group)):
        return None
    bounds = costs.bounds(wide.group)
    shape = wide.shape.beside(narrow.shape.among_beams(wide.beams / narrow.beams))
    if shape.rows > bounds.rows or shape.padded_positions > bounds.tokens:
        return None
    seconds, time_left = costs.batch_seconds(wide.group, shape), min(narrow.time_left, wide.time_left)
    if seconds > time_left:
        return None
    return Draft(entries, wide.group, wide.beams, shape, seconds, time_left)
