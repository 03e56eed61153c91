"""Lines of one source are one source."""

from __future__ import annotations

from model_export.evaluation.data import EvaluationData
from model_export.text.pairs import TextPairs

PAIRS = TextPairs(["b", "a", "b", "c", "b"], ["B", "A", "BB", "C", "B"])
DATA = EvaluationData.from_pairs(PAIRS)


def test_every_source_once_with_all_its_targets() -> None:
    assert EvaluationData(["b", "a", "c"], [["B", "BB", "B"], ["A"], ["C"]]) == DATA
    assert DATA.pair_count == 5


def test_the_first_sources() -> None:
    assert DATA.limited(2) == EvaluationData(["b", "a"], [["B", "BB", "B"], ["A"]])
    assert DATA.limited(3) is DATA
    assert DATA.limited(9, seed=1) is DATA


def test_drawn_sources_are_different_ones_in_order_and_depend_on_the_seed() -> None:
    data = EvaluationData([f"{n:03}" for n in range(100)], [["x"]] * 100)

    drawn = data.limited(20, seed=1)

    assert len(set(drawn.sources)) == 20
    assert drawn.sources == sorted(drawn.sources)
    assert data.limited(20, seed=1) == drawn
    assert data.limited(20, seed=2) != drawn != data.limited(20)
