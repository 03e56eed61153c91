"""What rows and batches cost, predicted from what was measured, and how large a batch may be.

Two regressions are learnt from every batch that ends: how long a model's targets are, given the source, and how long
a batch runs, given its shape. What a model's profile says of the latter is where that begins (``profiles``). Nothing
here knows of queues or clocks.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, TypeVar

from service.batching.regression import Fit, Regression
from service.batching.rows import AdmittedRow, Row, TimedResult
from service.settings import MAX_BATCH_ROWS, MAX_BATCH_TOKENS

Learnt = TypeVar("Learnt")

PRIOR_SECONDS: Final = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
"""Of ``BatchShape.features`` before anything was measured: faster than any model, as a cold server must not refuse."""
PRIOR_TARGET_TOKENS: Final = (1.0, 1.0)
"""A target is taken to have one token, and one more for each of its source, before any was seen."""
STRETCH_SMOOTHING: Final = 0.1
STRETCH_BOUNDS: Final = 0.5, 8.0
MOST_REMEMBERED: Final = 1024
"""Versions, and groups: of more, those are forgotten that were learnt about longest ago. Versions come and go."""


class RowCost(NamedTuple):
    """What a row adds to a batch, as predicted when it came."""

    reads: int  # positions read in parallel
    steps: float  # of decoding, one after the other
    width: int  # sequences decoded side by side

    @property
    def positions(self) -> float:
        """Of each of its sequences."""
        return self.reads + self.steps

    @property
    def attended(self) -> float:
        """Positions that its steps look back at: what was read, and on average half of what was decoded."""
        return self.steps * self.width * (self.reads + self.steps / 2)


class BatchShape(NamedTuple):
    """What the time of a batch depends on."""

    rows: int = 0
    steps: float = 0.0  # of the row with the most
    decoded: float = 0.0  # steps x width, summed: rows that are done leave the loop
    reads: int = 0  # of the row with the most
    positions: float = 0.0  # positions x width of the row with the most
    attended: float = 0.0  # summed

    def with_row(self, cost: RowCost) -> BatchShape:
        """The shape with one more row."""
        return BatchShape(
            self.rows + 1,
            max(self.steps, cost.steps),
            self.decoded + cost.steps * cost.width,
            max(self.reads, cost.reads),
            max(self.positions, cost.positions * cost.width),
            self.attended + cost.attended,
        )

    def among_beams(self, times: float) -> BatchShape:
        """The shape beside rows of so many times the beams: attention keeps places for as many, and computes them."""
        return self._replace(positions=times * self.positions, attended=times * self.attended)

    def beside(self, other: BatchShape) -> BatchShape:
        """The shape of the rows of both."""
        return BatchShape(
            self.rows + other.rows,
            max(self.steps, other.steps),
            self.decoded + other.decoded,
            max(self.reads, other.reads),
            max(self.positions, other.positions),
            self.attended + other.attended,
        )

    @property
    def features(self) -> tuple[float, float, float, float, float]:
        """The call itself, its steps, the tokens decoded in them, the padded positions read before, those attended."""
        return 1.0, self.steps, self.decoded, float(self.rows * self.reads), self.attended

    @property
    def padded_positions(self) -> float:
        """What ``max_batch_tokens`` bounds."""
        return self.rows * self.positions


class RowSeconds(NamedTuple):
    """Predicted slot-seconds of a row."""

    alone: float  # in a batch of its own
    full: float  # of a full batch of its like
    share: float  # its part of the batches that run while many rows wait


class Bounds(NamedTuple):
    """Of a batch: a larger one is not worth its time."""

    rows: int
    tokens: int  # padded positions


class Expectation(NamedTuple):
    """What a profile says of the batches of one group, before any was run here."""

    seconds: Fit  # of ``BatchShape.features``
    weight: float  # of that, in batches
    bounds: Bounds


Expectations: TypeAlias = Mapping[tuple[str, int], Mapping[int, Expectation]]
"""By model and version, and by beam size."""


@dataclass(slots=True)
class _Group:
    """What is known of a group."""

    seconds: Regression
    bounds: Bounds
    stretch: float = 1.0  # a batch's seconds over its rows' parts of full ones


class Costs:
    """Predicts, and learns from every batch. Groups are those of ``Row.group``."""

    def __init__(self, max_batch_rows: int | None = None, max_batch_tokens: int | None = None) -> None:
        """The bounds of every batch; without them a model's profile says, or else the defaults of ``settings``."""
        self._max_batch_rows = max_batch_rows
        self._max_batch_tokens = max_batch_tokens
        self._expectations: Expectations = {}
        self._targets: dict[Hashable, Regression] = {}  # tokens, by model and version
        self._groups: dict[Hashable, _Group] = {}

    def expect(self, expectations: Expectations) -> None:
        """Let these be what is expected, and forget what was learnt where that is another than before."""
        before, self._expectations = self._expectations, expectations
        other = {key for key in {*before, *expectations} if before.get(key) is not expectations.get(key)}
        self._groups = {group: known for group, known in self._groups.items() if _version(group) not in other}

    def bounds(self, group: Hashable) -> Bounds:
        """How large a batch may be."""
        return self._group(group).bounds

    def row(self, row: Row) -> RowCost:
        """The row's predicted cost."""
        return RowCost(row.reads, row.steps(self._target(row).predict((1.0, len(row.source_ids)))), row.width)

    def batch_seconds(self, group: Hashable, shape: BatchShape) -> float:
        """Predicted time of a batch."""
        return self._group(group).seconds.predict(shape.features)

    def row_seconds(self, group: Hashable, cost: RowCost) -> RowSeconds:
        """Predicted time of a row, by itself and among many."""
        known = self._group(group)
        full = _full_batch(cost, known.bounds)
        full_s = known.seconds.predict(full.features)
        alone_s = known.seconds.predict(BatchShape().with_row(cost).features)
        return RowSeconds(alone_s, full_s, min(alone_s, full_s / full.rows * known.stretch))

    def trusted(self, group: Hashable) -> bool:
        """Whether enough was measured, here or by a profile, to refuse somebody for it."""
        return self._group(group).seconds.trusted

    def learn(
        self, group: Hashable, costs: Sequence[RowCost], shape: BatchShape, seconds: float, many_waited: bool
    ) -> None:
        """A batch of rows of these costs took ``seconds``; ``many_waited``: there were rows to fill it with."""
        known = self._group(group)
        if many_waited:
            full = [_full_batch(cost, known.bounds) for cost in costs]
            expected = sum(known.seconds.predict(each.features) / each.rows for each in full)
            low, high = STRETCH_BOUNDS
            newest = min(high, max(low, seconds / expected))
            known.stretch += STRETCH_SMOOTHING * (newest - known.stretch)
        known.seconds.learn(shape.features, seconds)
        _remember(self._groups, group, known)

    def learn_targets(self, rows: Sequence[Row], results: Sequence[TimedResult]) -> None:
        """Learn how long targets are from the longest hypothesis of each row of one model and version.

        A target that a bound has cut says only that it would have been at least so long, and one that a bound has
        stretched that it would have been at most so long: beyond that they count as what was expected.
        """
        sources, targets, count = 0, 0.0, 0
        for row, result in zip(rows, results, strict=True):
            if isinstance(row, AdmittedRow):
                prefix, new = len(row.prefix_ids), max(result.row.lengths)
                expected = self._target(row).predict((1.0, len(row.source_ids)))
                if new >= row.max_new_tokens:
                    target = max(expected, prefix + new)
                elif new <= row.options.min_new_tokens:
                    target = min(expected, prefix + new)
                else:
                    target = prefix + new
                sources, targets, count = sources + len(row.source_ids), targets + target, count + 1
        if count:
            regression = self._target(rows[0])
            regression.learn((count, sources), targets)
            _remember(self._targets, (rows[0].model, rows[0].version), regression)

    def _target(self, row: Row) -> Regression:
        return self._targets.get((row.model, row.version)) or Regression(PRIOR_TARGET_TOKENS)

    def _group(self, group: Hashable) -> _Group:
        known = self._groups.get(group)
        if known is None:
            known = self._unknown(self._expectation(group))
            _remember(self._groups, group, known)
        return known

    def _unknown(self, expectation: Expectation | None) -> _Group:
        if expectation is None:
            seconds, bounds = Regression(PRIOR_SECONDS), Bounds(MAX_BATCH_ROWS, MAX_BATCH_TOKENS)
        else:
            fit, weight, bounds = expectation
            seconds = Regression(fit.coefficients, fit.certainty, weight)
        return _Group(seconds, Bounds(self._max_batch_rows or bounds.rows, self._max_batch_tokens or bounds.tokens))

    def _expectation(self, group: Hashable) -> Expectation | None:
        match group:
            case (_, _, _, int(beam_size)):
                return self._expectations.get(_version(group), {}).get(beam_size)
        return None  # scoring: profiles are of generation


def _version(group: Hashable) -> tuple[str, int]:
    match group:
        case (str(model), int(version), *_):
            return model, version
    raise TypeError(f"{group!r} is no group of rows")


def _full_batch(cost: RowCost, bounds: Bounds) -> BatchShape:
    """As many rows of this cost as fit."""
    rows = max(1, min(bounds.rows, int(bounds.tokens / (cost.positions * cost.width))))
    decoded = rows * cost.steps * cost.width
    return BatchShape(rows, cost.steps, decoded, cost.reads, cost.positions * cost.width, rows * cost.attended)


def _remember(memory: dict[Hashable, Learnt], key: Hashable, learnt: Learnt) -> None:
    memory.pop(key, None)  # a dict keeps the order of insertion: the first is the one to forget
    memory[key] = learnt
    if len(memory) > MOST_REMEMBERED:
        del memory[next(iter(memory))]
