"""The rows of one model that wait: by urgency, by who may run together, and how much work they are."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from service.batching.costs import RowCost
from service.batching.jobs import Entry, Start

SHORT_POSITIONS: Final = 32
"""Rows of at most so many positions are alike: padding one costs less than another run."""
BUCKET_S: Final = 0.25
"""Resolution in time of what is known about the work that waits."""

Lane: TypeAlias = list[tuple[float, int, Entry]]  # sorted; the sequence is unique, so that entries are not compared


def cost_class(cost: RowCost) -> int:
    """The octave of its positions. Rows of one class, or of neighbouring ones, are of similar cost."""
    return max(0, math.ceil(math.log2(cost.positions / SHORT_POSITIONS)))


@dataclass(slots=True)
class _Bucket:
    seconds: float = 0.0  # of a slot: the sum of the shares
    starts: list[Start] = field(default_factory=list)  # of each row, sorted


class Backlog:
    """Predicted slot-seconds that wait, by when they are due."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}

    def add(self, entry: Entry) -> None:
        """Count a row that waits from now on."""
        bucket = self._buckets.setdefault(_bucket(entry.due), _Bucket())
        bucket.seconds += entry.share
        insort(bucket.starts, entry.start)

    def remove(self, entry: Entry) -> None:
        """Count it out."""
        place = _bucket(entry.due)
        bucket = self._buckets[place]
        bucket.seconds -= entry.share
        del bucket.starts[bisect_left(bucket.starts, entry.start)]
        if not bucket.starts:
            del self._buckets[place]  # and what rounding has left in it

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(bucket.seconds for bucket in self._buckets.values())

    def seconds_before(self, due: float) -> float:
        """What is due before, or about when ``due`` is."""
        last = _bucket(due)
        return sum(bucket.seconds for place, bucket in self._buckets.items() if place <= last)

    def after(self, due: float) -> Iterator[tuple[float, Start]]:
        """From about ``due`` on, step by step: all seconds that are due so far, and the strictest start of the step."""
        first, seconds = _bucket(due), 0.0
        for place in sorted(self._buckets):
            bucket = self._buckets[place]
            seconds += bucket.seconds
            if place >= first:
                yield seconds, bucket.starts[0]


class Waiting:
    """The waiting rows of one model; ``service`` is the slot-seconds that it has had, for fairness among models.

    ``backlog`` is the work of those that are to be in time.
    """

    def __init__(self) -> None:
        self.service = 0.0
        self.backlog = Backlog()
        self._groups: dict[Hashable, dict[int, Lane]] = {}  # by cost class; neither has empty ones

    def __bool__(self) -> bool:
        return bool(self._groups)

    def add(self, entry: Entry) -> None:
        """Let a row wait."""
        lanes = self._groups.setdefault(entry.group, {})
        insort(lanes.setdefault(entry.lane, []), (entry.due, entry.sequence, entry))
        if not entry.best_effort:
            self.backlog.add(entry)

    def remove(self, entry: Entry) -> None:
        """Take a row that waits."""
        lanes, place = self._groups[entry.group], entry.lane
        lane = lanes[place]
        del lane[bisect_left(lane, (entry.due, entry.sequence))]
        if not lane:
            del lanes[place]
        if not lanes:
            del self._groups[entry.group]
        if not entry.best_effort:
            self.backlog.remove(entry)

    def most_urgent(self) -> Entry:
        """The row that is due first, and of these the oldest."""
        return min(lane[0] for lanes in self._groups.values() for lane in lanes.values())[2]

    def like(self, entry: Entry) -> Iterator[Entry]:
        """The other rows that may share its batch and are of similar cost, the most urgent first."""
        lanes, place = self._groups[entry.group], entry.lane
        alike = [lanes[near] for near in (place - 1, place, place + 1) if near in lanes]
        return (other for _, _, other in heapq.merge(*alike) if other is not entry)

    def kin(self, entry: Entry) -> Iterator[Entry]:
        """Of every other group whose rows may share its batch, the most urgent one of similar cost."""
        if entry.row.kin is None or entry.alone:
            return
        place = entry.lane
        for group, lanes in self._groups.items():
            firsts = [lanes[near][0] for near in (place - 1, place, place + 1) if near in lanes]
            if firsts and group != entry.group:
                *_, first = min(firsts)
                if first.row.kin == entry.row.kin and not first.alone:
                    yield first


def _bucket(due: float) -> int:
    return math.floor(due / BUCKET_S)
