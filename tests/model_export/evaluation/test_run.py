"""An evaluation from data to facts, with what it is told to do."""

from __future__ import annotations

import pytest

from model_export.evaluation.data import EvaluationData
from model_export.evaluation.run import EvaluationOptions, evaluate
from model_export.evaluation.subject import EvaluationError
from tests.support.scripted_subject import ScriptedSubject

DATA = EvaluationData(["a", "bb", "ccc"], [["un"], ["deux"], ["trois"]])
ANSWERS = {"a": "un", "bb": "deux", "ccc": "tres"}


def test_every_option_is_acted_on() -> None:
    first, second = ScriptedSubject(ANSWERS, max_source_tokens=3), ScriptedSubject({**ANSWERS, "a": "x"})
    options = EvaluationOptions(
        {"beam_size": 3}, "skip", bleu_tokenizer="char", batch_size=1, buckets=1, samples=100, seed=3
    )

    facts = evaluate([first, second], DATA, options)

    assert facts["data"]["skipped_sources"] == 1
    assert "tok:char" in facts["signatures"]["bleu"]
    assert [texts for kind, texts, _ in second.calls if kind == "generate"] == [["a"], ["a"], ["bb"]]
    assert {options["beam_size"] for kind, _, options in second.calls if kind == "generate"} == {3}
    assert [len(model["buckets"]) for model in facts["models"]] == [1, 1]
    assert facts["comparison"]["test"] == {"name": "paired bootstrap resampling", "samples": 100, "seed": 3}


def test_buckets_of_two_models_hold_the_same_sources() -> None:
    class Doubling(ScriptedSubject):
        def tokenize(self, texts):  # type: ignore[no-untyped-def]
            return [ids * 2 for ids in super().tokenize(texts)]

    facts = evaluate([ScriptedSubject(ANSWERS), Doubling(ANSWERS)], DATA, EvaluationOptions(samples=100))

    spans = [[(each["shortest"], each["sources"]) for each in model["buckets"]] for model in facts["models"]]
    assert spans == [[(2, 1), (3, 1), (4, 1)]] * 2  # as the first one counts


def test_a_missing_tokenizer_is_found_before_any_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mecab_ko", None)
    subject = ScriptedSubject(ANSWERS)

    with pytest.raises(EvaluationError, match="ko-mecab"):
        evaluate([subject], DATA, EvaluationOptions(bleu_tokenizer="ko-mecab"))

    assert [kind for kind, _, _ in subject.calls] == ["score"]  # the one that tells the framing
