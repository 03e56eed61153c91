"""Texts for golden cases, chosen from what a tokenizer knows."""

from __future__ import annotations

import unicodedata

import pytest

from model_export.artifact.golden_texts import CANDIDATES, ROUNDS, GoldenTexts, golden_texts
from model_export.config import TokenizerConfig
from model_export.text.tokenizers import SentencePieceTokenizer, train_sentencepiece
from tests.support.tiny_models import CORPUS, tiny_tokenizer


@pytest.fixture(scope="module")
def texts() -> GoldenTexts:
    return golden_texts(CORPUS, SentencePieceTokenizer(tiny_tokenizer()))[0]


def test_every_script_of_the_vocabulary_has_texts_in_it(texts: GoldenTexts) -> None:
    assert set(texts.by_script) == {"LATIN", "HANGUL", "HIRAGANA", "KATAKANA", "CJK"}
    for script, found in texts.by_script.items():
        assert len(found) >= CANDIDATES // 2
        assert all(any(script in unicodedata.name(character, "") for character in text) for text in found)


def test_real_samples_come_first_the_longest_leading(texts: GoldenTexts) -> None:
    assert len(texts.samples) == CANDIDATES
    assert set(texts.samples) <= set(CORPUS)
    assert texts.samples[0] == max(CORPUS, key=len)
    assert texts.shortest[0] == min(CORPUS, key=len)
    assert texts.by_script["HANGUL"][0] in CORPUS


def test_texts_beyond_the_vocabulary_leave_out_what_it_can_spell(texts: GoldenTexts) -> None:
    knows_drums = SentencePieceTokenizer(
        train_sentencepiece(["drum 🥁 drum", "a b c"] * 9, 271, TokenizerConfig(character_coverage=1.0))
    )
    assert "🥁" in texts.beyond_vocabulary
    assert not any("🥁" in texts.beyond_vocabulary for texts in golden_texts(CORPUS, knows_drums))


def test_korean_is_decomposed(texts: GoldenTexts) -> None:
    assert texts.decomposed_korean[0] != "안녕하세요"
    assert unicodedata.normalize("NFC", texts.decomposed_korean[0]) == "안녕하세요"


def test_without_samples_texts_are_spelled_from_the_vocabulary() -> None:
    tokenizer = SentencePieceTokenizer(tiny_tokenizer())
    rounds = golden_texts([], tokenizer)
    assert all(len(texts.samples) >= CANDIDATES // 2 for texts in rounds)
    assert rounds == golden_texts([], tokenizer)


def test_later_rounds_offer_other_texts() -> None:
    samples = [f"{'go home! ' * number}{letter}" for number in range(5) for letter in "abcdefgh"]
    rounds = golden_texts(samples, SentencePieceTokenizer(tiny_tokenizer()))
    assert len(rounds) == ROUNDS
    offered = [text for texts in rounds for text in texts.samples]
    assert len(set(offered)) == len(offered)
    assert set(offered) >= set(samples), "all, before any is spelled"
    assert [len(texts.samples) for texts in rounds] == [CANDIDATES] * ROUNDS
    for kind in ("beyond_vocabulary", "decomposed_korean"):
        first, *others = [set(getattr(texts, kind)) for texts in rounds]
        assert first
        assert all(len(other - first) == len(first) for other in others)
