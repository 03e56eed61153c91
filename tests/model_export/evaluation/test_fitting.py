"""What is too long is skipped for both models or cut for each, and counted."""

from __future__ import annotations

import pytest

from model_export.evaluation.data import EvaluationData
from model_export.evaluation.fitting import Pair, fit
from model_export.evaluation.subject import EvaluationError
from tests.support.scripted_subject import ScriptedSubject

DATA = EvaluationData(["abcd", "abcdefgh", "ab"], [["ABCD", "A"], ["B"], ["ABCDEFGH"]])


def subject(most_source: int = 100, most_target: int = 100) -> ScriptedSubject:
    return ScriptedSubject({}, max_source_tokens=most_source, max_target_tokens=most_target)


def test_all_that_fits_is_asked() -> None:
    fitted = fit([subject(9, 9)], DATA, "skip")  # EOS counts: exactly at the limit

    (questions,) = fitted.questions
    assert (fitted.data, fitted.skipped_sources, fitted.unscored_pairs) == (DATA, 0, 0)
    assert questions.sources == DATA.sources
    assert questions.source_tokens.tolist() == [5, 9, 3]
    assert questions.pairs == [Pair(0, "ABCD"), Pair(0, "A"), Pair(1, "B"), Pair(2, "ABCDEFGH")]
    assert questions.pair_tokens.tolist() == [5, 2, 2, 9]
    assert (questions.cut_sources, questions.cut_targets) == (0, 0)


def test_long_sources_are_skipped_and_long_targets_are_references_only() -> None:
    fitted = fit([subject(8, 8)], DATA, "skip")

    (questions,) = fitted.questions
    assert fitted.data == EvaluationData(["abcd", "ab"], [["ABCD", "A"], ["ABCDEFGH"]])
    assert (fitted.skipped_sources, fitted.unscored_pairs) == (1, 1)
    assert questions.pairs == [Pair(0, "ABCD"), Pair(0, "A")]


def test_what_one_model_cannot_take_the_other_is_not_asked() -> None:
    fitted = fit([subject(8, 100), subject(100, 4)], DATA, "skip")

    assert [questions.sources for questions in fitted.questions] == [["abcd", "ab"]] * 2
    assert [questions.pairs for questions in fitted.questions] == [[Pair(0, "A")]] * 2
    assert (fitted.skipped_sources, fitted.unscored_pairs) == (1, 2)


def test_long_texts_are_cut_for_the_model_that_needs_it() -> None:
    fitted = fit([subject(5, 3), subject()], DATA, "truncate")

    short, whole = fitted.questions
    assert (fitted.data, fitted.skipped_sources, fitted.unscored_pairs) == (DATA, 0, 0)
    assert short.sources == ["abcd", "abcd", "ab"]
    assert [pair.target for pair in short.pairs] == ["AB", "A", "B", "AB"]
    assert (short.cut_sources, short.cut_targets) == (1, 2)
    assert whole.sources == DATA.sources
    assert (whole.cut_sources, whole.cut_targets) == (0, 0)


class Joining(ScriptedSubject):
    """Half of its characters come out as two tokens when they stand at the end of a text."""

    def tokenize(self, texts):  # type: ignore[no-untyped-def]
        return [[*ids, 1] if chr(ids[-1]) in "bd" else ids for ids in super().tokenize(texts)]


def test_a_cut_text_fits_whatever_its_tokens_are_then() -> None:
    fitted = fit([Joining({}, max_source_tokens=5)], EvaluationData(["abcde"], [["x"]]), "truncate")

    (questions,) = fitted.questions
    assert questions.sources == ["abc"]  # "abcd" has five tokens, and EOS
    assert questions.source_tokens.tolist() == [4]


@pytest.mark.parametrize("most", [2, 3])
def test_no_source_that_fits(most: int) -> None:
    data = EvaluationData(["abcd", "abc"], [["A"], ["A"]])

    with pytest.raises(EvaluationError, match=rf"every source is too long: the model takes {most - 1} tokens"):
        fit([subject(most)], data, "skip")


def test_tokenizing_is_told() -> None:
    told: list[tuple[str, int, int]] = []

    fit([subject()], DATA, "skip", lambda *stage: told.append(stage))

    assert told == [
        ("tokenizing for scripted", 0, 3),
        ("tokenizing for scripted", 0, 4),
        ("first score by scripted", 0, 0),
    ]
