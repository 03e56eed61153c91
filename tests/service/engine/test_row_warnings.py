"""What answers warn of, as sentences."""

from __future__ import annotations

import pytest

from service.engine.row_warnings import LONGEST_NAMED, cut, target, truncated, unknown, without_sampling
from service.generation import FinishReason, GenerationOptions
from service.tokenization import SentencePieceTokenizer
from tests.support.plain_tokenizer import UNK, plain_tokenizer

TOKENIZER = SentencePieceTokenizer(plain_tokenizer())


def told(text: str, tokens: int | None = None) -> list[str]:
    (ids,) = TOKENIZER.encode([text])
    return unknown("input", text, ids[:tokens], UNK, TOKENIZER)


def test_unknown_characters_are_told_with_their_places() -> None:
    assert told("the 🦜🦜 word é") == ["input has characters that the model does not know: '🦜🦜' at 4, 'é' at 12"]
    assert told("the word") == []
    assert told("") == []


def test_characters_that_normalization_spells_out_are_told_once_and_as_they_were_sent() -> None:
    assert told("no ﷺ ½") == ["input has characters that the model does not know: 'ﷺ' at 3, '½' at 5"]


def test_only_so_many_places_are_named_and_not_at_length() -> None:
    (warning,) = told(" ".join("äöüßéèêàçñ"))
    assert warning.endswith("'à' at 14 and 2 more")
    (warning,) = told("é" * (LONGEST_NAMED + 1))
    assert warning.endswith(f"'{'é' * LONGEST_NAMED}'... at 0")


def test_what_was_cut_off_is_not_told() -> None:
    assert told("é the é", 3) == ["input has characters that the model does not know: 'é' at 0"]


def test_a_target_of_no_tokens_is_told() -> None:
    assert target("", [], UNK, TOKENIZER) == ["target has no tokens: the score is that of ending at once"]
    (ids,) = TOKENIZER.encode(["the é"])
    assert target("the é", ids, UNK, TOKENIZER) == ["target has characters that the model does not know: 'é' at 4"]


def test_options_of_sampling_are_told_where_nothing_is_sampled() -> None:
    assert without_sampling(GenerationOptions(temperature=0.7, top_p=0.9, seed=1)) == [
        "'temperature', 'top_p' changed nothing, because 'do_sample' is false"
    ]
    for silent in (GenerationOptions(seed=1), GenerationOptions(top_k=3, do_sample=True), GenerationOptions(top_k=0)):
        assert without_sampling(silent) == []


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ("e", []),
        ("s", []),
        ("l", ["output cut by this"]),
        ("ll", ["output cut by this"]),
        ("esl", ["1 of 3 hypotheses cut by this"]),
    ],
)
def test_hypotheses_that_were_cut_are_counted(reasons: str, expected: list[str]) -> None:
    named = {"e": FinishReason.EOS_TOKEN, "l": FinishReason.LENGTH, "s": FinishReason.STOP_SEQUENCE}
    assert cut([named[each] for each in reasons], "this") == expected


def test_truncation_is_told_in_tokens() -> None:
    assert truncated(7) == ["input truncated by 7 tokens"]
    assert truncated(0) == []
