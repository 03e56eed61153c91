from __future__ import annotations

import pytest

from benchmarks.decode import FLOORS, Measured, measure_case, ratios
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


def test_ratios_of_what_was_measured() -> None:
    def one(contender: str, batch: int, *seconds: float) -> Measured:
        return Measured("transformer", 1, batch, contender, [9.0] * 3, list(seconds), 1.0, 1.0)

    measured = [one("int8", 1, 1.0, 2.0, 30.0), one("ct2-int8", 1, 3.0, 4.0, 5.0), one("int8", 8, 1.0, 1.0, 1.0)]

    assert ratios(measured, "cpu") == {("int8", "ct2-int8"): {(1, 1): 2.0}}
    assert set(sum(FLOORS, ())) <= set(CONTENDERS)
