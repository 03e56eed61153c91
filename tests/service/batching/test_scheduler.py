"""What runs together, who goes first, who is refused: one case at a time, on a clock that is an argument."""

from __future__ import annotations

import math

import numpy as np
import pytest

from service.batching.costs import BatchShape, RowCost
from service.batching.jobs import Batch, Job
from service.batching.rows import AdmittedRow, RowResult, TimedResult
from service.batching.scheduler import PATIENCE_S, RETRY_AFTER_BOUNDS_S, Scheduler
from service.errors import DeadlineExceeded, Overloaded
from tests.support.rows import make_row

ROW_S, STEP_S = 0.1, 0.01


def make_job(*rows: AdmittedRow, deadline: float = 1000.0) -> Job:
    return Job(rows, deadline, lambda job: None)


def make_scheduler(capacity: int = 100, max_batch_rows: int = 8, max_batch_tokens: int = 1000) -> Scheduler:
    return Scheduler(capacity, max_batch_rows, max_batch_tokens)


def offer(scheduler: Scheduler, *rows: AdmittedRow, deadline: float = 1000.0, now: float = 0.0, slots: int = 1) -> Job:
    job = make_job(*rows, deadline=deadline)
    scheduler.offer(job, now, slots)
    return job


def lengths(batch: Batch | None) -> list[int]:
    return [] if batch is None else [len(entry.row.source_ids) for entry in batch.entries]


def take(scheduler: Scheduler, now: float = 0.0, free_slots: int = 1) -> list[int]:
    """The source lengths of the next batch, which takes no time."""
    batch = scheduler.next_batch(now, free_slots)
    if batch is not None:
        scheduler.ended(batch, now, None)
    return lengths(batch)


def results_of(batch: Batch) -> list[TimedResult]:
    """Targets of one token more than the source, as every model is taken to give before it has answered."""
    empty = np.zeros(0, np.int32)
    targets = [np.array([len(entry.row.source_ids) + 1], np.int32) for entry in batch.entries]
    return [TimedResult(RowResult(empty, target, *(empty,) * 4, 0), 0.0, 0.0) for target in targets]


def experienced(row_s: float = ROW_S, **bounds: int) -> Scheduler:
    """A scheduler that knows: a batch takes ``row_s`` for each row of 4 tokens, and nothing is shared."""
    scheduler = make_scheduler(**bounds)
    for rows in (1, 2, 4, 8) * 10:
        cost = RowCost(4, 5.0, 1)
        shape = BatchShape()
        for _ in range(rows):
            shape = shape.with_row(cost)
        for model in ("echo", "other"):
            scheduler.costs.learn(make_row(model=model).group, [cost] * rows, shape, rows * row_s, False)
    return scheduler


def test_takes_all_rows_of_a_job_or_none() -> None:
    scheduler = make_scheduler(capacity=3)
    offer(scheduler, make_row(), make_row())
    with pytest.raises(Overloaded, match="too many requests wait already: try again in 1 s"):
        offer(scheduler, make_row(), make_row())
    assert len(scheduler) == 2
    offer(scheduler, make_row())
    assert len(scheduler) == 3


def test_nothing_waits_nothing_runs() -> None:
    assert make_scheduler().next_batch(0.0) is None


def test_rows_of_similar_cost_run_together() -> None:
    scheduler = make_scheduler(max_batch_tokens=8192)
    offer(scheduler, make_row(100), make_row(4), make_row(140), make_row(60), make_row(3))
    assert take(scheduler) == [100, 140, 60]
    assert take(scheduler) == [4, 3]


def test_padded_tokens_are_bounded_and_a_larger_row_runs_alone() -> None:
    scheduler = make_scheduler(max_batch_tokens=90)
    offer(scheduler, *(make_row(10) for _ in range(5)))  # 10 + 11 tokens each: four fit
    assert take(scheduler) == [10] * 4
    offer(scheduler, make_row(50))
    assert [take(scheduler), take(scheduler)] == [[10], [50]]


@pytest.mark.parametrize(
    "other",
    [make_row(model="other"), make_row(beam_size=2), make_row(text="the word")],
    ids=["model", "beam size", "signature"],
)
def test_rows_of_unlike_groups_do_not_share_a_batch(other: AdmittedRow) -> None:
    scheduler = make_scheduler()
    offer(scheduler, make_row(5), make_row(5))
    offer(scheduler, other)
    assert sorted([take(scheduler), take(scheduler)]) == [[4], [5, 5]]


def test_rows_that_differ_in_any_other_option_share_one() -> None:
    scheduler = make_scheduler()
    offer(scheduler, make_row(beam_size=4), make_row(beam_size=4, num_hypotheses=4, length_penalty=0.5))
    assert len(take(scheduler)) == 2


def knowing_beams() -> Scheduler:
    """A scheduler that knows what calls of 2 and of 4 beams take: more than their rows do."""
    scheduler = make_scheduler()
    for beam_size in (2, 4):
        for rows in (1, 2, 4, 8) * 4:
            cost, shape = RowCost(4, 5.0, beam_size), BatchShape()
            for _ in range(rows):
                shape = shape.with_row(cost)
            group = make_row(beam_size=beam_size).group
            scheduler.costs.learn(group, [cost] * rows, shape, 0.01 + 1e-5 * shape.decoded, False)
    return scheduler


def test_a_row_of_another_beam_size_that_is_late_joins_nobody() -> None:
    scheduler = knowing_beams()
    two, four = (make_row(beam_size=beam_size, mixes_beam_sizes=True) for beam_size in (2, 4))
    offer(scheduler, two)
    late = offer(scheduler, four, deadline=18.0, now=9.9)  # due after the other
    batch = scheduler.next_batch(18.5)
    assert [entry.row for entry in batch.entries] == [two]
    assert isinstance(late.error, DeadlineExceeded)
    assert not len(scheduler)


def test_rows_of_other_beam_sizes_join_where_no_slot_is_free_for_them() -> None:
    scheduler = knowing_beams()
    two, four = (make_row(beam_size=beam_size, mixes_beam_sizes=True) for beam_size in (2, 4))
    offer(scheduler, two, four)
    assert len(take(scheduler, free_slots=2)) == 1
    assert len(take(scheduler, free_slots=1)) == 1
    offer(scheduler, two, four)
    batch = scheduler.next_batch(0.0)
    assert [entry.row for entry in batch.entries] == [two, four]
    assert batch.group == four.group
    before = [scheduler.costs.batch_seconds(row.group, batch.shape) for row in (two, four)]
    scheduler.ended(batch, 2 * before[1], None)
    after = [scheduler.costs.batch_seconds(row.group, batch.shape) for row in (two, four)]
    assert after[0] == before[0], "it tells nothing of calls of two beams"
    assert after[1] > before[1]


def test_free_slots_share_what_waits() -> None:
    scheduler = make_scheduler()
    offer(scheduler, *(make_row() for _ in range(5)))
    assert len(take(scheduler, free_slots=2)) == 3
    assert len(take(scheduler, free_slots=1)) == 2


def test_the_earlier_deadline_goes_first() -> None:
    scheduler = make_scheduler(max_batch_rows=1)
    for tokens, deadline in ((5, 30.0), (4, 3.0), (3, 9.0)):
        offer(scheduler, make_row(tokens), deadline=deadline)
    assert [take(scheduler) for _ in range(3)] == [[4], [3], [5]]


def test_a_row_is_overtaken_for_a_while_only() -> None:
    scheduler = make_scheduler(max_batch_rows=1)
    patient = offer(scheduler, make_row(9), deadline=1000.0)
    now = 0.0
    while scheduler._jobs.get(patient):
        offer(scheduler, make_row(3), deadline=now + 1.0, now=now)
        take(scheduler, now)
        now += 0.1
    assert PATIENCE_S - 0.5 < now < PATIENCE_S + 0.5


def test_a_late_job_is_told_so_and_dropped() -> None:
    scheduler = make_scheduler()
    late = offer(scheduler, make_row(), make_row(), deadline=5.0)
    offer(scheduler, make_row(7))
    assert take(scheduler, 5.0) == [7]
    assert isinstance(late.error, DeadlineExceeded)
    assert len(scheduler) == 0


def test_a_late_companion_is_dropped_too() -> None:
    scheduler = make_scheduler()
    offer(scheduler, make_row(7), deadline=20.0)
    late = offer(scheduler, make_row(), deadline=25.0, now=4.0)
    late.deadline = 5.0
    assert take(scheduler, 6.0) == [7]
    assert isinstance(late.error, DeadlineExceeded)
    assert len(scheduler) == 0


def test_a_discarded_job_frees_its_places() -> None:
    scheduler = make_scheduler(capacity=2)
    job = offer(scheduler, make_row(), make_row())
    scheduler.discard(job)
    assert len(scheduler) == 0
    offer(scheduler, make_row(), make_row())


def test_rows_put_back_run_alone_before_younger_ones() -> None:
    scheduler = make_scheduler()
    job = offer(scheduler, make_row(), make_row())
    failed = scheduler.next_batch(0.0)
    assert failed is not None
    offer(scheduler, make_row(), now=0.1)
    scheduler.ended(failed, 0.1, None)
    scheduler.put_back_alone(failed)
    batches = [scheduler.next_batch(0.2) for _ in range(3)]
    assert [[entry.job is job for entry in batch.entries] for batch in batches if batch] == [[True], [True], [False]]


def test_rows_of_a_closed_job_are_not_put_back() -> None:
    scheduler = make_scheduler()
    job = offer(scheduler, make_row())
    taken = scheduler.next_batch(0.0)
    assert taken is not None
    job.abandon()
    scheduler.put_back_alone(taken)
    assert len(scheduler) == 0


def test_a_batch_is_not_so_long_that_the_row_it_began_with_is_late() -> None:
    scheduler = experienced()
    offer(scheduler, make_row(), deadline=0.35)
    offer(scheduler, *(make_row() for _ in range(7)))
    assert len(take(scheduler)) == 3
    assert len(take(scheduler)) == 5


def test_a_row_that_nothing_helps_shortens_no_batch() -> None:
    scheduler = experienced()
    offer(scheduler, make_row(), deadline=0.05)
    offer(scheduler, *(make_row() for _ in range(7)))
    assert len(take(scheduler)) == 8


def test_what_cannot_be_in_time_is_refused_at_once_with_the_wait() -> None:
    scheduler = experienced()
    offer(scheduler, *(make_row() for _ in range(40)), deadline=8.0)  # 4 s of work
    with pytest.raises(Overloaded, match=r"allow more of it, or try again in \d s") as refused:
        offer(scheduler, *(make_row() for _ in range(40)), deadline=8.1)
    assert 4 <= refused.value.retry_after_s <= 5
    assert len(scheduler) == 40, "none was taken"
    offer(scheduler, *(make_row() for _ in range(40)), deadline=20.0)


def test_what_runs_is_waited_for_too() -> None:
    scheduler = experienced()
    offer(scheduler, *(make_row() for _ in range(8)))
    assert len(lengths(scheduler.next_batch(0.0))) == 8
    with pytest.raises(Overloaded):
        offer(scheduler, make_row(), deadline=0.8)
    offer(scheduler, make_row(), deadline=1.2)
    offer(scheduler, make_row(), deadline=1.4, now=0.7)


def test_nobody_is_admitted_at_the_cost_of_those_admitted_before() -> None:
    scheduler = experienced()
    offer(scheduler, *(make_row() for _ in range(20)), deadline=4.0)
    with pytest.raises(Overloaded):
        offer(scheduler, *(make_row() for _ in range(20)), deadline=3.5)  # would be in time, and the others late
    offer(scheduler, *(make_row() for _ in range(20)), deadline=40.0)


def test_a_request_that_was_refused_or_gave_up_is_in_nobodys_way() -> None:
    scheduler = experienced()
    gone = offer(scheduler, *(make_row() for _ in range(5)), deadline=3.5)
    for _ in range(3):
        with pytest.raises(Overloaded):
            offer(scheduler, *(make_row() for _ in range(20)), deadline=3.4)
    scheduler.discard(gone)
    offer(scheduler, make_row(), deadline=50.0)
    offer(scheduler, *(make_row() for _ in range(20)), deadline=3.4)


def test_slots_share_the_work() -> None:
    for slots in (1, 2):
        scheduler = experienced()
        offer(scheduler, *(make_row() for _ in range(40)), deadline=8.0, slots=slots)
        if slots == 1:
            with pytest.raises(Overloaded):
                offer(scheduler, *(make_row() for _ in range(40)), deadline=8.1, slots=slots)
        else:
            offer(scheduler, *(make_row() for _ in range(40)), deadline=8.1, slots=slots)


def test_alone_in_an_idle_server_nobody_is_refused() -> None:
    scheduler = experienced(row_s=100.0)
    offer(scheduler, make_row(), make_row(), deadline=0.01)
    assert len(scheduler) == 2


def test_who_cannot_be_in_time_in_an_idle_server_is_in_nobodys_way() -> None:
    scheduler = experienced()
    hopeless = offer(scheduler, *(make_row() for _ in range(60)), deadline=5.0)  # 6 s of work
    assert len(take(scheduler)) == 8
    for timeout_s in (1.0, 5.0, 30.0):
        offer(scheduler, make_row(7), deadline=timeout_s)
    assert take(scheduler) == [7] * 3 + [4] * 5
    assert len(scheduler) == len(scheduler._jobs[hopeless]) == 60 - 8 - 5


def test_before_anything_was_measured_nobody_is_refused_but_for_want_of_room() -> None:
    scheduler = make_scheduler(capacity=1000)
    for _ in range(1000):
        offer(scheduler, make_row(), deadline=0.001)
    with pytest.raises(Overloaded, match="too many"):
        offer(scheduler, make_row())


@pytest.mark.parametrize(("took_s", "learnt"), [(0.4, True), (0.02, False)])
def test_a_batch_that_came_to_nothing_took_at_least_so_long(took_s: float, learnt: bool) -> None:
    scheduler = experienced()
    for _ in range(50):
        offer(scheduler, make_row())
        batch = scheduler.next_batch(0.0)
        assert batch is not None
        scheduler.ended(batch, took_s, None)
    offer(scheduler, make_row())
    batch = scheduler.next_batch(0.0)
    assert batch is not None
    assert batch.seconds == pytest.approx(0.35 if learnt else ROW_S, rel=0.2)


def test_retry_after_is_bounded() -> None:
    scheduler = experienced(row_s=10.0)
    offer(scheduler, *(make_row() for _ in range(80)))
    with pytest.raises(Overloaded) as refused:
        offer(scheduler, make_row(), deadline=700.0)
    assert refused.value.retry_after_s == RETRY_AFTER_BOUNDS_S[1]


def test_models_share_the_slots_whatever_waits_for_each() -> None:
    scheduler = experienced(max_batch_rows=4, capacity=10_000)
    offer(scheduler, *(make_row() for _ in range(400)), deadline=math.inf)
    now, taken = 0.0, {"echo": 0, "other": 0}
    for _ in range(40):
        if not any(entry.row.model == "other" for job in scheduler._jobs for entry in scheduler._jobs[job]):
            offer(scheduler, *(make_row(model="other") for _ in range(4)), deadline=math.inf, now=now)
        batch = scheduler.next_batch(now)
        assert batch is not None
        taken[batch.entries[0].row.model] += 1
        now += 0.4
        scheduler.ended(batch, now, results_of(batch))
    assert abs(taken["echo"] - taken["other"]) <= 1


def test_a_model_collects_no_credit_while_it_is_idle() -> None:
    scheduler = experienced(max_batch_rows=1, capacity=10_000)
    offer(scheduler, *(make_row() for _ in range(300)), deadline=math.inf)
    now = 0.0
    order = []
    for turn in range(120):
        if turn == 100:
            offer(scheduler, *(make_row(model="other") for _ in range(20)), deadline=math.inf, now=now)
        batch = scheduler.next_batch(now)
        assert batch is not None
        order.append(batch.entries[0].row.model)
        now += 0.1
        scheduler.ended(batch, now, results_of(batch))
    assert 9 <= order[100:].count("other") <= 11


def test_work_of_another_model_counts_for_a_fair_share_only() -> None:
    scheduler = experienced(capacity=10_000)
    offer(scheduler, *(make_row() for _ in range(1000)), deadline=math.inf)  # 100 s of work
    offer(scheduler, make_row(model="other"), deadline=90.0)
    with pytest.raises(Overloaded):
        offer(scheduler, make_row(), deadline=90.0)
    offer(scheduler, make_row(), deadline=2.0)  # due before it all
