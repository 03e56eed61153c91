"""When rows of unlike beam sizes share a call, by what calls are predicted to take."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from service.batching.costs import BatchShape, Costs, RowCost
from service.batching.drafts import Draft, fill, join
from service.batching.jobs import Entry, Job, Start
from service.batching.rows import AdmittedRow
from tests.support.rows import make_row

CALL_S, STEP_S, TOKEN_S, ATTENDED_S = 0.002, 0.0004, 0.00002, 0.000001
STEPS = 10.0


def seconds_of(shape: BatchShape, attended_s: float = ATTENDED_S) -> float:
    return CALL_S + STEP_S * shape.steps + TOKEN_S * shape.decoded + attended_s * shape.attended


def learnt_costs(attended_s: float = ATTENDED_S, untrusted: int | None = None) -> Costs:
    """Costs that know what calls of 1, 2 and 4 beams take."""
    costs = Costs(32, 8192)
    for beam_size in {1, 2, 4} - {untrusted}:
        for rows in (1, 2, 4, 8, 16, 32) * 6:
            for steps in (5.0, STEPS, 20.0):
                cost, shape = RowCost(8, steps, beam_size), BatchShape()
                for _ in range(rows):
                    shape = shape.with_row(cost)
                group = make_row(beam_size=beam_size).group
                costs.learn(group, [cost] * rows, shape, seconds_of(shape, attended_s), False)
    return costs


def entry_of(row: AdmittedRow, deadline: float = 1000.0) -> Entry:
    job = Job([row], deadline, lambda job: None)
    return Entry(0.0, 0, job, 0, row, row.group, RowCost(8, STEPS, row.width), 0, 0.1, Start(deadline, 0.0), 0.0)


def draft_of(costs: Costs, rows: int, beam_size: int, deadline: float = 1000.0, mixes: bool = True) -> Draft:
    first, *others = [entry_of(make_row(beam_size=beam_size, mixes_beam_sizes=mixes), deadline) for _ in range(rows)]
    draft, late = fill(first, others, costs, 0.0, 32)
    assert not late
    assert len(draft.entries) == rows
    return draft


def beams(draft: Draft) -> Counter[int]:
    return Counter(entry.row.options.beam_size for entry in draft.entries)


def test_rows_of_unlike_beam_sizes_share_a_call_where_two_would_take_longer() -> None:
    costs = learnt_costs()
    joined = join(draft_of(costs, 4, 4), [draft_of(costs, 3, 2), draft_of(costs, 5, 1)], costs)
    assert beams(joined) == {4: 4, 2: 3, 1: 5}
    assert joined.group == make_row(beam_size=4).group
    assert joined.shape.decoded == (4 * 4 + 3 * 2 + 5) * STEPS, "what is not asked for is not decoded"
    assert joined.shape.attended == pytest.approx(12 * 4 * STEPS * (8 + STEPS / 2)), "but attention has its places"
    assert joined.seconds == pytest.approx(seconds_of(joined.shape), rel=0.05)


def test_they_do_not_where_attention_would_take_longer_than_another_call() -> None:
    costs = learnt_costs(attended_s=20 * ATTENDED_S)
    # 16 rows would attend to 3 x 130 positions more for each step, which takes 62 ms, and another call takes 6 ms.
    assert beams(join(draft_of(costs, 4, 4), [draft_of(costs, 16, 1)], costs)) == {4: 4}


def test_what_saves_more_with_others_is_left_to_them() -> None:
    costs = learnt_costs(attended_s=5 * ATTENDED_S)
    greedy, two, four = draft_of(costs, 8, 1), draft_of(costs, 2, 2), draft_of(costs, 1, 4)
    # A call takes 6 ms. With the greedy rows, two beams would mean 8 x 130 positions more, 5.2 ms; with the four beams
    # they mean 2 x 260 more, 2.6 ms. All in one would mean 3 x 8 x 130 more, 15.6 ms.
    assert beams(join(greedy, [four, two], costs)) == {1: 8}
    assert beams(join(two, [greedy, four], costs)) == {2: 2, 4: 1}
    assert beams(join(draft_of(costs, 1, 1), [four, two], costs)) == {1: 1, 2: 2, 4: 1}, "few enough for one call"


def test_rows_are_left_alone_where_there_is_no_time_for_more() -> None:
    costs = learnt_costs()
    assert beams(join(draft_of(costs, 1, 4), [draft_of(costs, 1, 2)], costs)) == {4: 1, 2: 1}
    hurried = draft_of(costs, 1, 2, deadline=0.007)
    assert beams(join(draft_of(costs, 1, 4), [hurried], costs)) == {4: 1}


def test_rows_that_must_not_are_left_alone() -> None:
    costs = learnt_costs()
    assert beams(join(draft_of(costs, 1, 4), [draft_of(costs, 1, 2, mixes=False)], costs)) == {4: 1}


def test_nothing_is_joined_before_it_is_known_what_it_takes() -> None:
    costs = learnt_costs(untrusted=2)
    assert beams(join(draft_of(costs, 1, 4), [draft_of(costs, 1, 2)], costs)) == {4: 1}


def test_nothing_is_joined_beyond_the_bounds_of_a_batch() -> None:
    costs = learnt_costs()
    assert beams(join(draft_of(costs, 30, 4), [draft_of(costs, 2, 2)], costs)) == {4: 30, 2: 2}
    assert beams(join(draft_of(costs, 30, 4), [draft_of(costs, 3, 2)], costs)) == {4: 30}


def test_a_row_that_nothing_helps_shortens_no_batch() -> None:
    costs = learnt_costs()
    hopeless = draft_of(costs, 1, 4, deadline=0.001)
    assert hopeless.time_left == math.inf
    assert beams(join(hopeless, [draft_of(costs, 1, 2)], costs)) == {4: 1, 2: 1}
