from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from service.batching.costs import MOST_REMEMBERED, BatchShape, Costs, RowCost
from service.batching.regression import TRUSTED_AFTER
from service.batching.rows import AdmittedRow, RowResult, TimedResult
from tests.support.rows import make_row

GROUP = make_row().group


def result(new_tokens: int) -> TimedResult:
    empty = np.zeros(0, np.int32)
    return TimedResult(RowResult(empty, np.array([new_tokens], np.int32), *(empty,) * 4, 0), 0.0, 0.0)


def learn_targets(costs: Costs, row: AdmittedRow, new_tokens: int, times: int = 50) -> None:
    for _ in range(times):
        costs.learn_targets([row], [result(new_tokens)])


def seconds_of(shape: BatchShape) -> float:
    return 0.02 + 0.003 * shape.steps + 0.0002 * shape.decoded


def shape_of(rows: int, steps: float = 10.0, reads: int = 10, width: int = 1) -> BatchShape:
    shape = BatchShape()
    for _ in range(rows):
        shape = shape.with_row(RowCost(reads, steps, width))
    return shape


def learn(costs: Costs, rows: int, times: int = 30, stretch: float = 1.0, many_waited: bool = False) -> None:
    for _ in range(times):
        shape = shape_of(rows)
        costs.learn(GROUP, [RowCost(10, 10.0, 1)] * rows, shape, stretch * seconds_of(shape), many_waited)


def test_a_batch_is_as_long_as_its_longest_row_and_as_much_work_as_all() -> None:
    shape = BatchShape().with_row(RowCost(10, 5.0, 4)).with_row(RowCost(3, 20.0, 4))
    assert shape.features == (1.0, 20.0, 100.0, 20.0, 5 * 4 * 12.5 + 20 * 4 * 13.0)
    assert shape.padded_positions == 2 * 4 * 23


def test_beside_wider_rows_attention_is_as_wide_as_theirs_and_nothing_else() -> None:
    narrow, wide = shape_of(3, steps=7.0, reads=9, width=2), shape_of(2, steps=5.0, reads=12, width=6)
    as_wide = shape_of(3, steps=7.0, reads=9, width=6)
    together = narrow.among_beams(3.0).beside(wide)
    assert together.decoded == narrow.decoded + wide.decoded
    assert together.attended == as_wide.attended + wide.attended
    assert (together.rows, together.steps, together.reads) == (5, 7.0, 12)
    assert together.positions == max(as_wide.positions, wide.positions)


def test_target_lengths_are_learnt_from_answers() -> None:
    costs = Costs(32, 8192)
    assert costs.row(make_row(20)).steps == 21, "one more than the source, before anything was seen"
    for _ in range(100):
        for source in (10, 40):
            costs.learn_targets([make_row(source)], [result(4 + source // 2)])
    assert costs.row(make_row(20)).steps == pytest.approx(14, rel=0.05)
    assert costs.row(make_row(20, model="other")).steps == 21


def test_a_target_that_a_bound_made_says_nothing_of_others() -> None:
    costs = Costs(32, 8192)
    learn_targets(costs, make_row(20, max_new_tokens=2), 2)
    learn_targets(costs, make_row(20, min_new_tokens=90), 90)
    assert costs.row(make_row(20)).steps == pytest.approx(21)
    costs = Costs(32, 8192)
    learn_targets(costs, make_row(20, max_new_tokens=60), 60)
    assert costs.row(make_row(20)).steps == pytest.approx(60, rel=0.05), "at least so long"


def test_a_group_that_never_ran_is_taken_to_be_fast_and_not_trusted() -> None:
    costs = Costs(32, 8192)
    assert costs.batch_seconds(GROUP, shape_of(32)) < 0.01
    learn(costs, 1, times=TRUSTED_AFTER - 1)
    assert not costs.trusted(GROUP)
    learn(costs, 1, times=1)
    assert costs.trusted(GROUP)
    assert not costs.trusted(make_row(beam_size=2).group)


def test_batch_times_are_learnt_by_group() -> None:
    costs = Costs(32, 8192)
    for rows in (1, 4, 32, 8):
        learn(costs, rows)
    for rows in (2, 16, 32):
        assert costs.batch_seconds(GROUP, shape_of(rows)) == pytest.approx(seconds_of(shape_of(rows)), rel=0.1)


def test_a_row_among_many_costs_its_part_of_a_full_batch() -> None:
    costs = Costs(max_batch_rows=16, max_batch_tokens=8192)
    for rows in (1, 4, 16):
        learn(costs, rows)
    seconds = costs.row_seconds(GROUP, RowCost(10, 10.0, 1))
    assert seconds.alone == pytest.approx(seconds_of(shape_of(1)), rel=0.1)
    assert seconds.full == pytest.approx(seconds_of(shape_of(16)), rel=0.1)
    assert seconds.share == pytest.approx(seconds.full / 16)
    tight = Costs(max_batch_rows=16, max_batch_tokens=15).row_seconds(GROUP, RowCost(10, 10.0, 1))
    assert tight.share == tight.full == tight.alone, "a row that exceeds the budget runs alone"


def test_batches_that_are_less_than_full_although_many_wait_are_allowed_for() -> None:
    costs = Costs(max_batch_rows=16, max_batch_tokens=8192)
    learn(costs, 4)
    before = costs.row_seconds(GROUP, RowCost(10, 10.0, 1))
    learn(costs, 4, times=100, many_waited=False)
    assert costs.row_seconds(GROUP, RowCost(10, 10.0, 1)).share == pytest.approx(before.share, rel=0.1)
    learn(costs, 4, times=100, many_waited=True)
    after = costs.row_seconds(GROUP, RowCost(10, 10.0, 1))
    assert after.share == pytest.approx(costs.batch_seconds(GROUP, shape_of(4)) / 4, rel=0.1), "fours are all there is"
    assert after.share <= after.alone


def test_versions_that_went_are_forgotten_and_those_in_use_are_not() -> None:
    costs = Costs(32, 8192)
    learn(costs, 4)
    known = costs.batch_seconds(GROUP, shape_of(4))
    for version in range(2 * MOST_REMEMBERED):
        row = replace(make_row(), version=version)
        costs.learn(row.group, [RowCost(10, 10.0, 1)], shape_of(1), 1.0, many_waited=True)
        costs.learn_targets([row], [result(9)])
        costs.learn(GROUP, [RowCost(10, 10.0, 1)] * 4, shape_of(4), known, many_waited=True)
    assert costs.trusted(GROUP)
    assert costs.batch_seconds(GROUP, shape_of(4)) == pytest.approx(known)
    for memory in (costs._groups, costs._targets):
        assert len(memory) == MOST_REMEMBERED
