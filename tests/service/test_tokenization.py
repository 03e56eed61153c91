from __future__ import annotations

import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.backends.scripted import tiny_tokenizer
from service.tokenization import SentencePieceTokenizer, Unknown
from tests.support.plain_tokenizer import UNK, plain_tokenizer

TEXTS = ["the word is echo", "말길이 좋다", "🦜 ok", "a", "no one said so"]


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(tiny_tokenizer())


def test_texts_come_back(tokenizer: SentencePieceTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(TEXTS)) == TEXTS


def test_decomposed_korean_gives_the_ids_of_composed(tokenizer: SentencePieceTokenizer) -> None:
    decomposed, composed = tokenizer.encode([unicodedata.normalize("NFD", "말길"), "말길"])
    assert decomposed == composed


def test_there_are_no_control_ids_and_none_have_text(tokenizer: SentencePieceTokenizer) -> None:
    (ids,) = tokenizer.encode(["the word"])
    assert not {0, 1, 2, 3} & set(ids)
    assert tokenizer.decode([[2, *ids, 3, 0]]) == ["the word"]


def test_nothing_is_left_of_invisible_characters(tokenizer: SentencePieceTokenizer) -> None:
    assert tokenizer.encode(["", " \u3000"]) == [[], []]


def test_pieces_spell_the_ids(tokenizer: SentencePieceTokenizer) -> None:
    (ids,) = tokenizer.encode(["the word"])
    assert "".join(tokenizer.pieces(ids)) == "▁the▁word"
    assert tokenizer.pieces([3]) == ["</s>"]


def test_unknown_characters_are_found_where_they_stand() -> None:
    plain = SentencePieceTokenizer(plain_tokenizer())
    text = "the 🦜 wordé ﷺ"
    (ids,) = plain.encode([text])
    assert plain.unknown(text, len(ids)) == [Unknown(4, "🦜"), Unknown(10, "é"), Unknown(12, "ﷺ")]
    first = ids.index(UNK) + 1
    assert plain.unknown(text, first) == [Unknown(4, "🦜")]
    assert plain.unknown(text, first - 1) == []
    decomposed = unicodedata.normalize("NFD", "no é")
    assert plain.unknown(decomposed, 9) == [Unknown(3, decomposed[3:])]


def test_what_is_spelled_in_bytes_is_known(tokenizer: SentencePieceTokenizer) -> None:
    assert tokenizer.unknown("the 🦜", 9) == []


def test_threads_may_share_it(tokenizer: SentencePieceTokenizer) -> None:
    expected = tokenizer.encode(TEXTS)
    with ThreadPoolExecutor(8) as threads:
        assert all(ids == expected for ids in threads.map(lambda _: tokenizer.encode(TEXTS), range(64)))


@pytest.mark.parametrize("model", [b"", b"no model"])
def test_other_bytes_are_refused(model: bytes) -> None:
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        SentencePieceTokenizer(model)
