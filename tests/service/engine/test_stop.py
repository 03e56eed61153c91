"""Where a text stops, in every script and wherever tokens end."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backends.scripted import tiny_tokenizer
from service.engine.stop import Cut, cut_at_stop
from service.tokenization import SentencePieceTokenizer

TOKENIZER = SentencePieceTokenizer(tiny_tokenizer())


def cut(text: str, *stop: str, prefix: str = "") -> Cut | None:
    """``text`` begins with ``prefix``."""
    (ids,) = TOKENIZER.encode([text])
    tokens = len(TOKENIZER.encode([prefix])[0])
    assert TOKENIZER.decode([ids[:tokens]]) == [prefix]
    return cut_at_stop(text, ids[:tokens], ids[tokens:], stop, TOKENIZER)


@pytest.mark.parametrize(
    ("text", "stop", "left", "tokens"),
    [
        ("the word", "word", "the ", 2),
        ("the word", "the", "", 1),
        ("the word", " w", "the", 2),
        ("the word", "e w", "th", 2),  # across tokens: ▁the ▁word
        ("말길 길", "길", "말", 2),
        ("말길 길", " 길", "말길", 4),
        ("좋다 🦜 좋다", "🦜", "좋다 ", 8),  # ▁ 좋 다 ▁, and a character of four tokens
        ("🦜 你好", "好", "🦜 你", 12),
        ("🦜 你好", "你好", "🦜 ", 12),
        ("no\nno", "\n", "no", 4),
        ("a a a", "a", "", 2),
    ],
)
def test_a_text_ends_before_the_first_stop_string(text: str, stop: str, left: str, tokens: int) -> None:
    assert cut(text, stop) == Cut(left, tokens)


def test_the_first_of_several_counts_and_the_shorter_of_two_that_begin_together() -> None:
    assert cut("the word no", "no", "word") == Cut("the ", 2)
    assert cut("말길 길", "길 길", "길") == Cut("말", 2)


def test_what_does_not_stand_there_cuts_nothing() -> None:
    assert cut("the word", "Word", "the  word", "words") is None


def test_a_prefix_is_not_searched_nor_where_it_ends() -> None:
    assert cut("the word the word", "the", prefix="the word") == Cut("the word ", 1)
    assert cut("the word", "e w", prefix="the") is None
    assert cut("the word", " ", prefix="the") == Cut("the", 1)


def test_decomposed_hangul_stops_composed() -> None:
    decomposed = unicodedata.normalize("NFD", "좋다")
    assert decomposed != "좋다"
    assert cut("말길 좋다", decomposed) == Cut("말길 ", 5)


def test_half_a_character_is_none() -> None:
    """The bytes of 你 decode to U+FFFD until all are there."""
    assert cut("你 the", "\ufffd", "the") == Cut("你 ", 5)


def test_a_text_that_the_graph_decoded_otherwise_keeps_all_its_tokens() -> None:
    assert cut_at_stop("another text", [], TOKENIZER.encode(["the word"])[0], ["text"], TOKENIZER) == Cut("another ", 2)


class Counting(SentencePieceTokenizer):
    decoded = 0

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        self.decoded += len(sequences)
        return super().decode(sequences)


def test_a_long_text_is_decoded_a_few_times_only() -> None:
    tokenizer = Counting(tiny_tokenizer())
    text = "the word " * 2000 + "길"
    (ids,) = tokenizer.encode([text])
    found = cut_at_stop(text, [], ids, ["길"], tokenizer)
    assert found == Cut(text[:-1], len(ids))
    assert tokenizer.decoded <= math.log2(len(ids)) + 2


IDS = st.lists(st.sampled_from([*range(4, 260), *TOKENIZER.encode(["the word 말길 좋다 a no"])[0] * 20]), max_size=30)


@given(IDS, IDS, st.integers(0, 40), st.integers(1, 4), st.text(max_size=2))
def test_it_is_what_trying_every_number_of_tokens_finds(
    prefix: list[int], ids: list[int], place: int, length: int, other: str
) -> None:
    """Tokens at random are mostly bytes, and so mostly half characters."""
    ids = ids or [4]
    (text,) = TOKENIZER.decode([prefix + ids])
    (known,) = TOKENIZER.decode([prefix])
    start = len(known)
    while not text.startswith(known[:start]):
        start -= 1
    stop = [each for each in (text[start + place :][:length], other) if each]
    wanted = [*stop, *(unicodedata.normalize("NFC", each) for each in stop)]
    found = sorted((text.index(each, start), len(each)) for each in wanted if each in text[start:])
    expected = None
    if found:
        begin, size = found[0]
        texts = (TOKENIZER.decode([prefix + ids[:count]])[0] for count in range(1, len(ids) + 1))
        holding = [count for count, so_far in enumerate(texts, 1) if so_far.startswith(text[: begin + size])]
        expected = Cut(text[:begin], holding[0])
        assert holding == list(range(holding[0], len(ids) + 1)), "once held it goes on to be"
    assert cut_at_stop(text, prefix, ids, stop, TOKENIZER) == expected
