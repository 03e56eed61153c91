from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest

from service.batching.costs import RowCost
from service.batching.jobs import Entry, Job, Start
from service.batching.waiting import Waiting, cost_class
from tests.support.rows import make_row

sequences = itertools.count()


def make_entry(
    due: float = 0.0, tokens: int = 10, deadline: float = math.inf, seconds: float = 1.0, **options: object
) -> Entry:
    row = make_row(tokens, **options)
    job = Job([row], deadline, lambda job: None)
    cost, start = RowCost(tokens, tokens, row.width), Start(deadline - 2 * seconds, 3 * seconds)
    return Entry(due, next(sequences), job, 0, row, row.group, cost, cost_class(cost), seconds, start, 0.0)


def waiting_of(*entries: Entry) -> Waiting:
    waiting = Waiting()
    for entry in entries:
        waiting.add(entry)
    return waiting


def test_short_rows_are_of_one_class_and_longer_ones_of_that_of_their_octave() -> None:
    classes = [cost_class(RowCost(positions // 2, positions / 2, 1)) for positions in (2, 32, 34, 64, 66, 128, 1024)]
    assert classes == [0, 0, 1, 1, 2, 2, 5]


def test_the_most_urgent_row_is_due_first_and_the_oldest_of_those() -> None:
    late, first, second = make_entry(due=2.0), make_entry(due=1.0, beam_size=4), make_entry(due=1.0, tokens=200)
    waiting = waiting_of(second, late, first)
    assert waiting.most_urgent() is first
    waiting.remove(first)
    assert waiting.most_urgent() is second


def test_like_a_row_are_those_of_its_group_and_of_similar_cost_by_urgency() -> None:
    entry = make_entry(due=5.0, tokens=40)
    near = [make_entry(due=2.0, tokens=60), make_entry(due=3.0, tokens=20), make_entry(due=4.0, tokens=40)]
    others = [make_entry(tokens=10), make_entry(tokens=400), make_entry(tokens=40, beam_size=2)]
    waiting = waiting_of(*reversed(near), entry, *others)
    assert list(waiting.like(entry)) == near


def test_kin_of_a_row_are_the_first_of_each_other_group_that_may_share_its_call() -> None:
    entry = make_entry(due=5.0, tokens=40, mixes_beam_sizes=True)
    first = make_entry(due=2.0, tokens=60, beam_size=4, mixes_beam_sizes=True)
    second = make_entry(due=3.0, tokens=20, beam_size=4, mixes_beam_sizes=True)
    two = make_entry(due=9.0, tokens=40, beam_size=2, mixes_beam_sizes=True)
    strangers = [
        make_entry(tokens=400, beam_size=3, mixes_beam_sizes=True),
        make_entry(tokens=40, beam_size=5),
        make_entry(tokens=40, beam_size=6, mixes_beam_sizes=True, text="by text"),
        make_entry(tokens=40, beam_size=7, mixes_beam_sizes=True, model="other"),
        replace(make_entry(tokens=40, beam_size=8, mixes_beam_sizes=True), group="by itself", alone=True),
    ]
    waiting = waiting_of(second, entry, *strangers, two, first)
    assert set(waiting.kin(entry)) == {first, two}
    assert not list(waiting.kin(strangers[1]))
    assert not list(waiting.kin(strangers[-1]))


def test_nothing_is_left_of_what_was_removed() -> None:
    chance = random.Random(0)
    entries = [make_entry(chance.uniform(0, 9), chance.randint(1, 300), seconds=chance.random()) for _ in range(200)]
    waiting = waiting_of(*entries)
    assert waiting.backlog.seconds == pytest.approx(sum(entry.share for entry in entries))
    chance.shuffle(entries)
    for entry in entries:
        assert waiting
        waiting.remove(entry)
    assert not waiting
    assert not waiting._groups
    assert waiting.backlog.seconds == 0.0


def test_work_is_known_by_when_it_is_due() -> None:
    waiting = waiting_of(make_entry(1.0), make_entry(2.0, seconds=2.0), make_entry(3.0, seconds=4.0))
    assert [waiting.backlog.seconds_before(due) for due in (0.5, 1.0, 2.5, 3.0)] == [0.0, 1.0, 3.0, 7.0]
    assert [seconds for seconds, _ in waiting.backlog.after(2.0)] == [3.0, 7.0]


def test_the_strictest_row_of_those_that_wait_says_when_they_must_start() -> None:
    strictest = make_entry(1.1, deadline=5.0)
    waiting = waiting_of(make_entry(1.0, deadline=9.0), strictest, make_entry(1.1, deadline=7.0))
    # A row runs for two seconds alone, and for three more in a full batch.
    assert list(waiting.backlog.after(0.0)) == [(3.0, Start(latest=5.0 - 2.0, filling=3.0))]
    waiting.remove(strictest)
    assert list(waiting.backlog.after(0.0)) == [(2.0, Start(latest=7.0 - 2.0, filling=3.0))]
