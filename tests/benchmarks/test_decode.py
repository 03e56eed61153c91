from __future__ import annotations

import pytest

from benchmarks.decode import Measured, measure_case, other_tokens
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.engines import Call
from benchmarks.peers.worker import Answer


class Scripted:
    """A worker that gives the same answer to every call."""

    def __init__(self, tokens: list[list[int]]) -> None:
        self._answer = Answer(tokens, wall=0.5, cpu=0.25)

    def ask(self, call: Call) -> Answer:
        return self._answer


def test_contenders_are_compared_with_the_first_that_is_exact() -> None:
    contenders = [CONTENDERS[name] for name in ("int8", "ct2-float32", "hf-int8")]
    workers = dict(
        zip(
            ("int8", "ct2-float32", "hf-int8"),
            map(Scripted, ([[7, 8], [9, 9]], [[7, 8], [9, 1]], [[7, 8], [9, 1]])),
            strict=True,
        )
    )

    found = measure_case(contenders, workers, "transformer", Call([[5, 3], [6, 3]], 1, 2, 2), rounds=3)

    assert [(one.contender, one.same_rows, one.same_tokens) for one in found] == [
        ("int8", 0.5, 0.75),
        ("ct2-float32", 1.0, 1.0),
        ("hf-int8", 1.0, 1.0),
    ]
    assert found[0].wall == [0.5] * 3


def test_an_answer_of_another_length_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"int8 gave \[1\] tokens a row, not 2"):
        measure_case([CONTENDERS["int8"]], {"int8": Scripted([[7]])}, "transformer", Call([[5, 3]], 1, 2, 2), rounds=1)


def test_slow_contenders_have_fewer_rounds() -> None:
    contenders = [CONTENDERS[name] for name in ("float32", "hf-float32", "naive")]
    workers = {one.name: Scripted([[7]]) for one in contenders}

    found = measure_case(contenders, workers, "transformer", Call([[5, 3]], 1, 1, 1), rounds=5)

    assert {one.contender: len(one.wall) for one in found} == {"float32": 5, "hf-float32": 3, "naive": 3}


def test_only_who_computes_in_float32_must_find_the_same_tokens() -> None:
    def one(contender: str, same_rows: float) -> Measured:
        return Measured("transformer", 4, 8, contender, [1.0], [1.0], same_rows, same_rows)

    measured = [one("float32", 1.0), one("ct2-float32", 0.875), one("naive", 1.0), one("ct2-int8", 0.5)]

    assert other_tokens(measured) == ["ct2-float32 (transformer, beam size 4, batch 8)"]
