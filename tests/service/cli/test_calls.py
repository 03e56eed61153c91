"""Calls of some lines each, and their answers in order."""

import itertools
import random
import threading
import time
from contextlib import closing

import pytest

from service.cli.calls import CALL_BYTES, cut, in_order
from service.errors import InvalidRequest


def row(place, line):
    if line == "bad":
        raise InvalidRequest(f"{place} is bad")
    return line or None


def test_calls_count_lines_and_what_is_asked():
    calls = list(cut(["a", "", "b", "c", ""], row, 2, place=11, asked_before=5))
    assert [call.lines for call in calls] == [("a", ""), ("b", "c"), ("",)]
    assert [(call.place, call.asked_before) for call in calls] == [(11, 5), (13, 6), (15, 8)]
    assert [call.asked for call in calls] == [[(11, "a")], [(13, "b"), (14, "c")], []]


def test_calls_are_bounded_in_bytes():
    long = "말" * (CALL_BYTES // 3)
    assert [len(call.lines) for call in cut(["a", long, long, long[:9], "b"], row, 32)] == [2, 1, 2]
    assert [len(call.lines) for call in cut([long + long, "a"], row, 32)] == [1, 1]


def test_a_call_is_there_as_soon_as_its_last_line_is():
    lines = iter(["a", "b", "c"])
    calls = cut(lines, row, 2)
    assert next(calls).lines == ("a", "b")
    assert next(lines) == "c"


def test_what_comes_before_a_wrong_line_is_asked_first():
    calls = cut(["a", "b", "c", "bad", "d"], row, 2)
    assert [next(calls).lines, next(calls).lines] == [("a", "b"), ("c",)]
    with pytest.raises(InvalidRequest, match=r"^4 is bad$"):
        next(calls)


def test_answers_keep_their_order_and_few_are_asked_at_a_time():
    chance, lock = random.Random(1), threading.Lock()
    running = most = ended = most_ahead = 0

    def answer(call):
        nonlocal running, most, ended
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(chance.random() / 100)
        with lock:
            running -= 1
            ended += 1
        return call.rows[0]

    seen = []
    for _, answered in in_order(cut(map(str, range(200)), row, 1), answer, 5):
        seen.append(answered)
        most_ahead = max(most_ahead, ended - len(seen))
    assert seen == [str(number) for number in range(200)]
    assert most == 5
    assert most_ahead <= 10


def test_no_more_lines_are_read_than_are_held():
    read = itertools.count()
    released = threading.Event()
    calls = cut((str(next(read)) for _ in itertools.count()), row, 1)
    with closing(in_order(calls, lambda call: released.wait(10), 2)) as answered:
        threading.Timer(0.2, released.set).start()
        next(answered)
        assert next(read) <= 6


def test_an_answer_comes_before_the_next_line_is_there():
    """Somebody who types sees each answer."""
    seen = threading.Event()

    def lines():
        yield "first"
        assert seen.wait(10)
        yield "second"

    answered = in_order(cut(lines(), row, 1), lambda call: call.rows[0], 3)
    assert next(answered)[1] == "first"
    seen.set()
    assert next(answered)[1] == "second"
    assert next(answered, None) is None


def test_an_error_comes_in_its_place():
    def answer(call):
        if call.place == 3:
            raise InvalidRequest("no")
        time.sleep(0.05 / call.place)
        return call.place

    answered = in_order(cut("abcd", row, 1), answer, 4)
    assert [next(answered)[1], next(answered)[1]] == [1, 2]
    with pytest.raises(InvalidRequest, match=r"^no$"):
        next(answered)
    answered = in_order(cut(["a", "bad"], row, 8), lambda call: call.rows, 4)
    assert next(answered)[1] == ("a",)
    with pytest.raises(InvalidRequest, match=r"^2 is bad$"):
        next(answered)


def test_leaving_early_starts_nothing_more():
    asked = []

    def answer(call):
        asked.append(call.place)
        return call.place

    with closing(in_order(cut(map(str, itertools.count()), row, 1), answer, 2)) as answered:
        next(answered)
    time.sleep(0.05)
    count = len(asked)
    time.sleep(0.05)
    assert len(asked) == count <= 6
