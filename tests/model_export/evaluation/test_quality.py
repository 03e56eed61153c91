"""What a dtype costs: figures beside the float32 model's, and a warning for every promise that is not kept."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from model_export.evaluation.data import EvaluationData
from model_export.evaluation.quality import Variant, measure_quality, missed_floors, quality_table
from model_export.evaluation.run import EvaluationOptions
from model_export.evaluation.subject import Options, Written
from tests.support.scripted_subject import ScriptedSubject

WORDS = ("one two three", "four five six", "seven eight nine", "ten and more of it")
SOURCES = [f"{'x' * length}" for length in range(1, 21)]
DATA = EvaluationData(SOURCES, [[WORDS[place % 4]] for place in range(20)])
RIGHT = {source: target for source, (target,) in zip(DATA.sources, DATA.targets, strict=True)}
OPTIONS = EvaluationOptions(samples=100, batch_size=8)


def measured(kind: str, other: ScriptedSubject) -> dict[str, Any]:
    baseline = ScriptedSubject(RIGHT, log_prob=-0.5, title="plain")
    return measure_quality([Variant("float32", baseline), Variant(kind, other)], DATA, OPTIONS)


def with_wrong(count: int) -> dict[str, str]:
    return RIGHT | dict.fromkeys(SOURCES[:count], "nothing of the kind at all")


def test_a_model_that_is_as_good_keeps_every_promise() -> None:
    facts = measured("int8", ScriptedSubject(RIGHT, log_prob=-0.505))
    plain, int8 = facts["models"]
    assert (plain["kind"], int8["kind"]) == ("float32", "int8")
    assert "comparison" not in plain
    assert int8["comparison"]["identical_outputs"] == int8["identical_alone_and_batched"] == 1.0
    assert int8["comparison"]["differences"]["loss"]["difference"] == pytest.approx(0.005)
    assert missed_floors(facts) == []


@pytest.mark.parametrize(
    ("kind", "wrong", "missed"),
    [
        ("bfloat16", 1, ["95.0% of the answers are those of float32, less than 98%"]),
        ("int8", 1, []),
        ("int8", 2, ["90.0% of the answers are those of float32, less than 95%"]),
        ("int8 static", 1, []),
        ("int8 static", 2, ["90.0% of the answers are those of float32, less than 93%"]),
    ],
)
def test_each_kind_has_a_share_of_answers_to_keep(kind: str, wrong: int, missed: list[str]) -> None:
    facts = measured(kind, ScriptedSubject(with_wrong(wrong), log_prob=-0.5, title="other"))
    said = [line for line in missed_floors(facts) if "BLEU" not in line]
    assert said == [f"other: {line}" for line in missed]


def test_a_loss_that_rises_and_a_bleu_that_falls_are_told() -> None:
    facts = measured("int8", ScriptedSubject(with_wrong(12), log_prob=-0.52, title="other"))
    loss, bleu, _ = missed_floors(facts)
    assert loss == "other: the loss rises by 0.0200 nats per token, more than 0.01"
    assert bleu.startswith("other: BLEU ")
    assert "is outside float32's interval, 100.00 to 100.00" in bleu


def test_answers_that_depend_on_their_batch_are_told() -> None:
    class Fickle(ScriptedSubject):
        def generate(self, texts: Any, options: Options) -> list[Written]:
            written = super().generate(texts, options)
            return [Written("alone", 2)] if len(texts) == 1 else written

    facts = measured("bfloat16", Fickle(RIGHT, log_prob=-0.5, title="other"))
    assert missed_floors(facts) == ["other: 0.0% of the answers are the same alone and batched, less than 98%"]


def test_the_table_has_a_column_for_each_model() -> None:
    facts = measured("int8 static", ScriptedSubject(with_wrong(1), log_prob=-0.51))
    text = io.StringIO()
    Console(file=text, width=120).print(quality_table(facts))
    for expected in ("20 sources", "float32", "int8 static", "0.5000", "0.5100", "+0.0100", "95.0%", "100.0%", "BLEU"):
        assert expected in text.getvalue()


def test_an_interval_holds_its_score() -> None:
    bleu = measured("int8", ScriptedSubject(with_wrong(10), log_prob=-0.5))["models"][1]
    low, high = bleu["intervals"]["bleu"]
    assert 0 < low < bleu["bleu"] < high < 100
    assert bleu["intervals"]["loss"] == pytest.approx([0.5, 0.5])
