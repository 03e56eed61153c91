"""The queue on a virtual clock: what runs together, and that no row is lost, answered twice or starved."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.queue import Entry, Job, RowQueue
from service.batching.rows import AdmittedRow, RowResult, TimedResult
from service.errors import BackendFailed, DeadlineExceeded
from tests.support.rows import make_row

NEVER = 1e9
RESULT = TimedResult(RowResult(*(np.zeros(0, np.int32) for _ in RowResult._fields)), 0.0, 0.0)


def make_job(*rows: AdmittedRow, deadline: float = NEVER) -> Job:
    return Job(rows, deadline, lambda job: None)


def make_queue(capacity: int = 100, max_batch_rows: int = 8, max_batch_tokens: int = 1000) -> RowQueue:
    return RowQueue(capacity, max_batch_rows, max_batch_tokens)


def offer(queue: RowQueue, *rows: AdmittedRow, deadline: float = NEVER) -> Job:
    job = make_job(*rows, deadline=deadline)
    assert queue.offer(job, 0.0)
    return job


def lengths(batch: list[Entry]) -> list[int]:
    return [len(entry.row.source_ids) for entry in batch]


def test_takes_all_rows_of_a_job_or_none() -> None:
    queue = make_queue(capacity=3)
    offer(queue, make_row(), make_row())
    assert not queue.offer(make_job(make_row(), make_row()), 0.0)
    assert len(queue) == 2
    offer(queue, make_row())
    assert len(queue) == 3


def test_an_empty_queue_gives_no_batch() -> None:
    assert make_queue().next_batch(0.0) == []


def test_rows_of_similar_cost_run_together_nearest_first_and_in_order_of_age() -> None:
    queue = make_queue(max_batch_rows=3)
    offer(queue, make_row(100), make_row(140), make_row(101), make_row(99), make_row(300))
    assert lengths(queue.next_batch(0.0)) == [100, 101, 99]
    assert lengths(queue.next_batch(0.0)) == [140]
    assert lengths(queue.next_batch(0.0)) == [300]


def test_short_rows_run_together_whatever_their_shares() -> None:
    queue = make_queue()
    offer(queue, make_row(2), make_row(16))
    assert lengths(queue.next_batch(0.0)) == [2, 16]


def test_padded_tokens_are_bounded_and_a_larger_row_runs_alone() -> None:
    queue = make_queue(max_batch_tokens=90)
    # Expected cost is twice the source: 20 each, so that four fit, and five do not.
    offer(queue, *(make_row(10) for _ in range(5)))
    assert lengths(queue.next_batch(0.0)) == [10] * 4
    offer(queue, make_row(50))
    assert lengths(queue.next_batch(0.0)) == [10]
    assert lengths(queue.next_batch(0.0)) == [50]


@pytest.mark.parametrize(
    "other",
    [
        make_row(model="other"),
        make_row(beam_size=2),
        make_row(text="the word"),
    ],
    ids=["model", "beam size", "signature"],
)
def test_rows_of_unlike_groups_do_not_share_a_batch(other: AdmittedRow) -> None:
    queue = make_queue()
    offer(queue, make_row(), other, make_row())
    assert [entry.index for entry in queue.next_batch(0.0)] == [0, 2]
    assert [entry.index for entry in queue.next_batch(0.0)] == [1]


def test_rows_that_differ_in_any_other_option_share_one() -> None:
    queue = make_queue()
    offer(queue, make_row(beam_size=4), make_row(beam_size=4, num_hypotheses=4, length_penalty=0.5, min_new_tokens=2))
    assert len(queue.next_batch(0.0)) == 2


def test_free_slots_share_what_waits() -> None:
    queue = make_queue()
    offer(queue, *(make_row() for _ in range(5)))
    assert len(queue.next_batch(0.0, free_slots=2)) == 3
    assert len(queue.next_batch(0.0, free_slots=1)) == 2


def test_a_late_job_is_told_so_and_dropped() -> None:
    queue = make_queue()
    late = offer(queue, make_row(), make_row(), deadline=5.0)
    in_time = offer(queue, make_row())
    assert [entry.job for entry in queue.next_batch(5.0)] == [in_time]
    assert isinstance(late.error, DeadlineExceeded)
    assert len(queue) == 0


def test_a_late_companion_is_dropped_too() -> None:
    queue = make_queue()
    in_time = offer(queue, make_row())
    late = offer(queue, make_row(), deadline=5.0)
    assert [entry.job for entry in queue.next_batch(6.0)] == [in_time]
    assert isinstance(late.error, DeadlineExceeded)
    assert len(queue) == 0


def test_a_discarded_job_frees_its_places() -> None:
    queue = make_queue(capacity=2)
    job = offer(queue, make_row(), make_row())
    queue.discard(job)
    assert len(queue) == 0
    offer(queue, make_row(), make_row())


def test_rows_put_back_run_alone_before_younger_ones() -> None:
    queue = make_queue()
    job = offer(queue, make_row(), make_row())
    failed = queue.next_batch(0.0)
    offer(queue, make_row())
    queue.put_back_alone(failed)
    batches = [queue.next_batch(0.0) for _ in range(3)]
    assert [[entry.job is job for entry in batch] for batch in batches] == [[True], [True], [False]]


def test_rows_of_a_closed_job_are_not_put_back() -> None:
    queue = make_queue()
    job = offer(queue, make_row())
    taken = queue.next_batch(0.0)
    job.abandon()
    queue.put_back_alone(taken)
    assert len(queue) == 0


def test_a_job_is_answered_once() -> None:
    closed = []
    job = Job([make_row()], NEVER, closed.append)
    job.deliver(0, RESULT)
    job.fail(BackendFailed("too late"))
    job.abandon()
    assert closed == [job]
    assert job.error is None
    assert job.results == {0: RESULT}


class Simulation:
    """Requests that come, hang up and pass their deadlines; batches that succeed and fail; time that moves in steps."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.limits = self.random.randint(1, 8), self.random.randint(20, 400)
        self.queue = RowQueue(self.random.randint(4, 40), *self.limits)
        self.jobs: list[Job] = []
        self.closed: Counter[Job] = Counter()
        self.delivered: Counter[tuple[Job, int]] = Counter()
        self.running: list[list[Entry]] = []

    def _on_close(self, job: Job) -> None:
        self.closed[job] += 1
        self.queue.discard(job)

    def arrive(self) -> None:
        beam_size = self.random.choice((1, 1, 4))
        rows = [
            make_row(self.random.randint(2, 60), model=self.random.choice("ab"), beam_size=beam_size)
            for _ in range(self.random.randint(1, 6))
        ]
        job = Job(rows, self.now + self.random.uniform(1, 30), self._on_close)
        if self.queue.offer(job, self.now):
            self.jobs.append(job)

    def hang_up(self) -> None:
        if self.jobs:
            self.random.choice(self.jobs).abandon()

    def start_batch(self) -> None:
        waiting = [entry for job in self.jobs for entry in self.queue._jobs.get(job, {}).values()]
        living = [entry.sequence for entry in waiting if entry.job.deadline > self.now]
        batch = self.queue.next_batch(self.now, self.random.randint(1, 3))
        if not batch:
            assert not living
            return
        max_rows, max_tokens = self.limits
        assert min(living) in {entry.sequence for entry in batch}, "the oldest living row runs"
        assert len({entry.group for entry in batch}) == 1
        assert len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * max(entry.cost for entry in batch) <= max_tokens
        assert all(not entry.job.closed and entry.job.deadline > self.now for entry in batch)
        self.running.append(batch)

    def end_batch(self, may_fail: bool = True) -> None:
        if not self.running:
            return
        batch = self.running.pop(self.random.randrange(len(self.running)))
        if may_fail and self.random.random() < 0.3:
            if len(batch) > 1:
                self.queue.put_back_alone(batch)
            else:
                batch[0].job.fail(BackendFailed("a row that no model takes"))
            return
        for entry in batch:
            if not entry.job.closed:
                self.delivered[entry.job, entry.index] += 1
            entry.job.deliver(entry.index, RESULT)

    def finish(self) -> None:
        while len(self.queue) or self.running:
            self.start_batch()
            self.end_batch(may_fail=False)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_no_row_is_lost_answered_twice_or_overtaken_for_ever(seed: int) -> None:
    simulation = Simulation(seed)
    steps = (simulation.arrive, simulation.arrive, simulation.hang_up, simulation.start_batch, simulation.end_batch)
    for _ in range(120):
        simulation.random.choice(steps)()
        simulation.now += simulation.random.uniform(0, 1)
    simulation.finish()
    assert all(simulation.closed[job] == 1 for job in simulation.jobs)
    assert set(simulation.delivered.values()) <= {1}
    assert not simulation.queue._groups
    assert not simulation.queue._jobs
    for job in simulation.jobs:
        if job.error is None and len(job.results) == len(job.rows):
            assert all(simulation.delivered[job, index] == 1 for index in range(len(job.rows)))
