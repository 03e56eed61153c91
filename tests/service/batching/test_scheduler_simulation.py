"""Thousands of rows on a virtual clock: whatever comes, hangs up, passes its deadline or fails, the promises hold."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.jobs import Batch, Job
from service.batching.rows import AdmittedRow, Row, RowResult, ScoringRow, TimedResult
from service.batching.scheduler import PATIENCE_S, URGENCY, Scheduler
from service.errors import BackendFailed, DeadlineExceeded, Overloaded
from tests.support.rows import make_row

CALL_S, STEP_S, TOKEN_S = 0.02, 0.002, 0.0002


def target_tokens(row: Row) -> int:
    """What the model answers with: a target half as long again as its source, more or less."""
    if isinstance(row, ScoringRow):
        return 1
    wanted = round(len(row.source_ids) * random.Random(row.seed).uniform(1.2, 1.8))
    return max(1, row.options.min_new_tokens, min(row.max_new_tokens, wanted))


def seconds_of(rows: Sequence[Row]) -> float:
    steps = [target_tokens(row) for row in rows]
    decoded = sum(count * row.width for count, row in zip(steps, rows, strict=True))
    return CALL_S + STEP_S * max(steps) + TOKEN_S * decoded


def result_of(row: Row) -> TimedResult:
    if isinstance(row, ScoringRow):
        return TimedResult(None, 0.0, 0.0)
    empty = np.zeros(0, np.int32)
    return TimedResult(RowResult(empty, np.array([target_tokens(row)], np.int32), *(empty,) * 4, 0), 0.0, 0.0)


class Simulation:
    """A discrete-event driver: jobs come and hang up, slots take batches, batches end, some fail."""

    def __init__(
        self, seed: int, *, slots: int = 2, capacity: int = 2048, rows: int = 32, tokens: int = 8192, failing: float = 0
    ) -> None:
        self.chance = random.Random(seed)
        self.scheduler = Scheduler(capacity, rows, tokens)
        self.now = 0.0
        self._slots, self._limits, self._failing = slots, (rows, tokens), failing
        self._running = 0
        self._events: list[tuple[float, int, str, Job | Batch]] = []
        self._counter = itertools.count()
        self.jobs: list[Job] = []
        self.refused: list[Job] = []
        self.closed_at: dict[Job, float] = {}
        self.arrived_at: dict[Job, float] = {}
        self.delivered: Counter[tuple[Job, int]] = Counter()
        self.longest_batch_s = 0.0
        self.joined = 0

    def at(self, time: float, rows: Sequence[Row], timeout_s: float) -> Job:
        """Have a job come at some time."""
        job = Job(rows, time + timeout_s, self._closed)
        self._push(time, "arrive", job)
        return job

    def hang_up_at(self, time: float, job: Job) -> None:
        self._push(time, "hang up", job)

    def run(self) -> None:
        while self._events:
            self.now, _, event, subject = heapq.heappop(self._events)
            if isinstance(subject, Batch):
                self._end(subject)
            elif event == "arrive":
                self._arrive(subject)
            elif event == "hang up":
                subject.abandon()
            else:
                subject.fail(DeadlineExceeded(""))
            if not self._events or self._events[0][0] > self.now:
                self._fill_slots()
        assert not len(self.scheduler)
        assert not self.scheduler._jobs
        assert not self.scheduler._running
        assert not any(self.scheduler._models.values())

    def _push(self, time: float, event: str, subject: Job | Batch) -> None:
        heapq.heappush(self._events, (time, next(self._counter), event, subject))

    def _closed(self, job: Job) -> None:
        assert job not in self.closed_at, "closed once"
        self.closed_at[job] = self.now
        self.scheduler.discard(job)

    def _arrive(self, job: Job) -> None:
        if job.closed:
            return
        self.arrived_at[job] = self.now
        before = len(self.scheduler)
        try:
            self.scheduler.offer(job, self.now, self._slots)
        except Overloaded:
            assert len(self.scheduler) == before
            self.refused.append(job)
            return
        self.jobs.append(job)
        self._push(job.deadline, "deadline", job)

    def _fill_slots(self) -> None:
        while self._running < self._slots:
            batch = self.scheduler.next_batch(self.now, self._slots - self._running)
            if batch is None:
                assert not len(self.scheduler), "no slot idles while rows wait"
                return
            self._check(batch)
            self._running += 1
            seconds = seconds_of([entry.row for entry in batch.entries]) * self.chance.lognormvariate(0.0, 0.1)
            self.longest_batch_s = max(self.longest_batch_s, seconds)
            self._push(self.now + seconds, "end", batch)

    def _check(self, batch: Batch) -> None:
        max_rows, max_tokens = self._limits
        self.joined += len({entry.group for entry in batch.entries}) > 1
        kin = {entry.row.kin for entry in batch.entries}
        assert len({entry.group for entry in batch.entries}) == 1 or (len(kin) == 1 and None not in kin)
        assert len({(entry.job, entry.index) for entry in batch.entries}) == len(batch.entries) <= max_rows
        widest = max(entry.cost.width for entry in batch.entries)
        padded = len(batch.entries) * max(entry.cost.positions for entry in batch.entries) * widest
        assert len(batch.entries) == 1 or padded <= max_tokens
        assert all(not entry.job.closed and entry.job.deadline > self.now for entry in batch.entries)

    def _end(self, batch: Batch) -> None:
        self._running -= 1
        fails = self.chance.random() < self._failing
        results = [result_of(entry.row) for entry in batch.entries]
        self.scheduler.ended(batch, self.now, None if fails else results)
        if fails and len(batch.entries) > 1:
            self.scheduler.put_back_alone(batch)
        elif fails:
            batch.entries[0].job.fail(BackendFailed("a row that no model takes"))
        else:
            for entry, result in zip(batch.entries, results, strict=True):
                self.delivered[entry.job, entry.index] += not entry.job.closed
                entry.job.deliver(entry.index, result)

    def answered(self) -> list[Job]:
        return [job for job in self.jobs if job.error is None and len(job.results) == len(job.rows)]

    def wait_of(self, job: Job) -> float:
        return self.closed_at[job] - self.arrived_at[job]


def some_row(chance: random.Random, model: str = "echo") -> AdmittedRow | ScoringRow:
    kind, seed = chance.random(), chance.getrandbits(30)
    if kind < 0.1:
        source, target = (np.zeros(chance.randint(1, 40), np.int32) for _ in range(2))
        return ScoringRow(model, 1, source, target)
    tokens, beam_size = chance.randint(2, 20), 1
    if kind > 0.85:
        tokens, beam_size = chance.choice(((chance.randint(40, 120), 1), (chance.randint(5, 30), 4)))
    row = make_row(tokens, model=model, beam_size=beam_size, max_new_tokens=chance.choice((5, 128)))
    return replace(row, seed=seed, mixes_beam_sizes=model == "a")


def job_of(chance: random.Random, most: int, models: str = "a") -> list[Row]:
    model = chance.choice(models)
    return [some_row(chance, model) for _ in range(chance.randint(1, most))]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_no_row_is_lost_or_answered_twice_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)
    simulation = Simulation(
        seed,
        slots=chance.randint(1, 3),
        capacity=chance.randint(20, 200),
        rows=chance.randint(1, 16),
        tokens=chance.randint(50, 2000),
        failing=0.1,
    )
    time = 0.0
    for _ in range(150):
        time += chance.expovariate(chance.choice((2.0, 50.0)))
        job = simulation.at(time, job_of(chance, 6, "ab"), chance.choice((0.1, 1.0, 30.0)))
        if chance.random() < 0.2:
            simulation.hang_up_at(time + chance.random(), job)
    simulation.run()
    assert set(simulation.closed_at) >= set(simulation.jobs), "every job that was taken was answered"
    assert set(simulation.delivered.values()) <= {0, 1}
    for job in simulation.answered():
        assert sorted(job.results) == list(range(len(job.rows)))
        assert all(simulation.delivered[job, index] == 1 for index in range(len(job.rows)))


def poisson(simulation: Simulation, rows_per_s: float, seconds: float) -> None:
    time = 0.0
    while (time := time + simulation.chance.expovariate(rows_per_s)) < seconds:
        simulation.at(time, job_of(simulation.chance, 1), simulation.chance.uniform(2.0, 10.0))


CAPACITY = 310.0
"""Rows/s of the mixture that two slots run when many wait, about."""


@pytest.mark.parametrize("seed", [1, 2])
def test_at_light_load_nobody_is_refused_and_nobody_is_late(seed: int) -> None:
    simulation = Simulation(seed)
    poisson(simulation, 0.4 * CAPACITY, 20.0)
    simulation.run()
    assert len(simulation.jobs) > 1000
    assert not simulation.refused
    assert len(simulation.answered()) == len(simulation.jobs)
    assert simulation.joined > 50, "rows of unlike beam sizes shared calls"


def test_under_overload_the_slots_stay_useful_and_what_is_admitted_is_in_time() -> None:
    simulation = Simulation(1)
    poisson(simulation, 3 * CAPACITY, 14.0)
    simulation.run()
    assert len(simulation.jobs) + len(simulation.refused) > 10_000
    late = [simulation.arrived_at[job] for job in simulation.jobs if isinstance(job.error, DeadlineExceeded)]
    assert len(late) < 0.06 * len(simulation.jobs)
    assert sum(arrived > 9.0 for arrived in late) < 0.002 * len(simulation.jobs), "it has learnt how full batches get"
    busy_s = max(simulation.closed_at.values())
    assert len(simulation.answered()) > 0.9 * CAPACITY * busy_s, "refused is only what there was no time for"


def test_urgent_requests_without_end_do_not_starve_a_patient_one() -> None:
    simulation = Simulation(3, slots=1, rows=4)
    patient = [simulation.at(1.0 + index, [make_row(90)], 120.0) for index in range(5)]
    time = 0.0
    while (time := time + simulation.chance.expovariate(3 * CAPACITY / 2)) < 30.0:
        simulation.at(time, [make_row(simulation.chance.randint(2, 20))], 1.0)
    simulation.run()
    assert simulation.refused, "more came than could be run"
    for job in patient:
        # Before it ran what was due before it: not much more than fits into the time that urgent requests have.
        assert simulation.wait_of(job) < min(PATIENCE_S, URGENCY * 120.0) + 1.0 + 2 * simulation.longest_batch_s


def test_a_model_with_few_requests_does_not_wait_for_anothers_many() -> None:
    simulation = Simulation(4)
    crowd = [simulation.at(0.0, [make_row(15, model="heavy")], 600.0) for _ in range(2000)]
    few = [simulation.at(0.5 + 0.2 * index, [make_row(15, model="light")], 600.0) for index in range(20)]
    simulation.run()
    assert max(map(simulation.wait_of, crowd)) > 5.0
    # At worst it waits for a slot, and for the other model's next batch, which evens out what both have had.
    assert max(map(simulation.wait_of, few)) < 2.5 * simulation.longest_batch_s


def test_two_busy_models_get_equal_shares_of_the_slots() -> None:
    simulation = Simulation(5)
    short = [simulation.at(0.0, [make_row(10, model="short")], 600.0) for _ in range(1000)]
    long = [simulation.at(0.0, [make_row(100, model="long")], 600.0) for _ in range(1000)]
    simulation.run()
    end = max(simulation.closed_at[job] for job in short)
    assert max(simulation.closed_at[job] for job in long) > 2 * end
    alone = Simulation(5)
    for _ in range(1000):
        alone.at(0.0, [make_row(10, model="short")], 600.0)
    alone.run()
    alone_end = max(alone.closed_at.values())
    assert 1.6 * alone_end < end < 2.4 * alone_end, "half of the slots was its own"
