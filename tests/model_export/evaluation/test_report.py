"""What is told of an evaluation, in JSON and on the console."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from model_export.evaluation.data import EvaluationData
from model_export.evaluation.report import Facts, notes, tables
from model_export.evaluation.run import EvaluationOptions, evaluate
from tests.support.scripted_subject import ScriptedSubject

DATA = EvaluationData(["a", "bb", "cc", "dddddddd"], [["un", "une"], ["deux"], ["trois"], ["quatre"]])
RIGHT = {"a": "un", "bb": "deux", "cc": "trois", "dddddddd": "quatre"}
WRONG = {**RIGHT, "cc": "x", "dddddddd": "y"}


def shown(facts: Facts) -> str:
    text = io.StringIO()
    Console(file=text, width=120).print(*tables(facts))
    return text.getvalue() + "\n".join(notes(facts))


def compared(second: ScriptedSubject, overlong: str = "skip") -> Facts:
    first = ScriptedSubject(RIGHT, log_prob=-0.5, title="ours")
    return evaluate([first, second], DATA, EvaluationOptions(overlong=overlong, samples=100))  # type: ignore[arg-type]


def test_the_facts_of_one_model() -> None:
    facts = evaluate([ScriptedSubject(RIGHT, log_prob=-0.5)], DATA, EvaluationOptions({"beam_size": 2}, buckets=2))

    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["data"] == {
        "sources": 4,
        "references": 5,
        "scored_pairs": 5,
        "skipped_sources": 0,
        "unscored_pairs": 0,
    }
    assert facts["decoding"] == {"beam_size": 2}
    (model,) = facts["models"]
    assert (model["model"], model["chrf"], model["loss"], model["accuracy"]) == ("scripted", 100.0, 0.5, 1.0)
    assert model["new_tokens"] == 3 + 5 + 6 + 7
    assert model["sentences_per_second"] == pytest.approx(4 / model["generation_seconds"])
    assert model["tokens_per_second"] == pytest.approx(21 / model["generation_seconds"])
    spans = [(bucket["shortest"], bucket["longest"], bucket["sources"]) for bucket in model["buckets"]]
    assert spans == [(2, 3, 3), (9, 9, 1)]
    assert "comparison" not in facts


def test_a_table_and_what_must_be_known_to_read_it() -> None:
    text = shown(evaluate([ScriptedSubject(RIGHT, log_prob=-0.5)], DATA, EvaluationOptions(buckets=2)))

    assert "4 sources, 5 references" in text
    for cells in ("chrF │ 100.00", "loss │ 0.5000", "2–3 │ 3*", "9 │ 1*"):
        assert cells in " ".join(text.replace("│", " │ ").split())
    assert "* fewer than 30 sources" in text
    assert "chrF: nrefs:var|case:mixed" in text
    assert "difference" not in text


def test_two_models_side_by_side() -> None:
    facts = compared(ScriptedSubject(WRONG, log_prob=-0.75, title="theirs"))

    comparison = facts["comparison"]
    assert comparison["identical_outputs"] == 0.5
    assert comparison["test"] == {"name": "paired bootstrap resampling", "samples": 100, "seed": 12345}
    assert comparison["differences"]["loss"]["difference"] == 0.25
    assert comparison["differences"]["chrf"]["difference"] < 0
    assert comparison["differences"]["chrf"]["low"] <= comparison["differences"]["chrf"]["high"] <= 0
    assert comparison["differences"]["accuracy"]["p_value"] is None
    text = " ".join(shown(facts).split())
    assert "first │ second │ difference │ 95 % interval │ p ┃".replace("│", "┃") in text
    assert "│ loss │ 0.5000 │ 0.7500 │ +0.2500 │ +0.2500 … +0.2500 │" in text
    assert "│ accuracy │ 1.0000 │ 1.0000 │ +0.0000 │ +0.0000 … +0.0000 │ same │" in text
    assert "first: ours second: theirs BLEU: nrefs:var|" in text
    assert "50.0% of the answers are identical" in text


class Bytes(ScriptedSubject):
    """Another tokenizer."""

    def tokenize(self, texts):  # type: ignore[no-untyped-def]
        return [[ord(character) + 1 for character in text] for text in texts]


def test_losses_of_unlike_tokens_are_not_compared() -> None:
    facts = compared(Bytes(RIGHT, log_prob=-0.75))

    assert set(facts["comparison"]["differences"]) == {"bleu", "chrf", "nats_per_character"}
    assert not facts["comparison"]["same_tokens"]
    assert "tokens differ: losses per token are not compared" in shown(facts)


def test_what_was_too_long_is_told() -> None:
    short = ScriptedSubject(RIGHT, title="short", max_source_tokens=8, max_target_tokens=6)

    skipped, cut = (
        shown(compared(short)),
        ScriptedSubject({**RIGHT, "ddddddd": "x"}, title="short", max_source_tokens=8),
    )

    assert "1 sources were too long, and skipped" in skipped
    assert "1 targets" not in skipped  # it was of that source
    text = shown(compared(cut, "truncate"))
    assert "short: 1 sources and 0 targets were too long, and truncated" in text
    assert " ours: " not in text
