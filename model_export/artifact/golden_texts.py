"""Texts for golden cases: real samples, every script that the vocabulary knows, and what it does not know."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import tensorflow as tf

from model_export.text.tokenizers import UNK_ID, SentencePieceTokenizer

CANDIDATES: Final = 12
"""Texts that are offered for each purpose, since not every answer is robust."""
ROUNDS: Final = 4
"""So often others are offered for what has too few robust answers."""

_RARE = ("🎉", "🦜🧭 ok", "𓂀𓆣", "ꦄꦏꦸ", "ᚠᛇᚻ", "ሰላም ነው", "a🧶b", "👩🏽‍🚀!", "🥁", "ⴰⵣⵓⵍ", "ᏣᎳᎩ", "🫖 🪁")
_KOREAN = ("안녕하세요", "고마워요!", "오늘 날씨가 좋네요.", "뭐 해?", "말길", "밥 먹었어?", "좋아요", "네, 알겠습니다")
_SPACE_MARK = "▁"
_LETTERS = {"LETTER", "SYLLABLE", "IDEOGRAPH"}  # in the names of characters that belong to a script


@dataclass(frozen=True, slots=True)
class GoldenTexts:
    """Candidates by purpose, some ``CANDIDATES`` each, the most telling first."""

    samples: tuple[str, ...]  # the longest first
    shortest: tuple[str, ...]
    by_script: dict[str, tuple[str, ...]]  # keyed as Unicode's character names begin: LATIN, HANGUL, CJK ...
    beyond_vocabulary: tuple[str, ...]
    decomposed_korean: tuple[str, ...]


def golden_texts(samples: Sequence[str], tokenizer: SentencePieceTokenizer) -> tuple[GoldenTexts, ...]:
    """Choose from ``samples`` (real source sentences); where they are few, spell texts from the vocabulary.

    Returns:
        ``ROUNDS`` choices, the best first: a sample of one is in none that follows.
    """
    pieces_by_script = _pieces_by_script(tokenizer)
    every_piece = [piece for pieces in pieces_by_script.values() for piece in pieces] or ["."]
    rare = [text for text in _RARE if _is_beyond_vocabulary(text, tokenizer)]
    left = sorted(dict.fromkeys(samples), key=len, reverse=True)
    rounds: list[GoldenTexts] = []
    for number in range(ROUNDS):
        pool = left + _spelled(every_piece, max(0, CANDIDATES - len(left)), number)
        rounds.append(
            GoldenTexts(
                samples=tuple(_spread(pool)),
                shortest=tuple(sorted(pool, key=len)[:CANDIDATES]),
                by_script={
                    script: (
                        *_spread([text for text in pool if script in _scripts(text)]),
                        *_spelled(pieces, CANDIDATES, number),
                    )
                    for script, pieces in pieces_by_script.items()
                },
                beyond_vocabulary=tuple(_paired(rare, number)),
                decomposed_korean=tuple(unicodedata.normalize("NFD", text) for text in _paired(_KOREAN, number)),
            )
        )
        left = [text for text in left if text not in rounds[-1].samples]
    return tuple(rounds)


def _spread(texts: Sequence[str]) -> list[str]:
    """``CANDIDATES`` of the texts, evenly from first to last."""
    if len(texts) <= CANDIDATES:
        return list(texts)
    return [texts[round(index * (len(texts) - 1) / (CANDIDATES - 1))] for index in range(CANDIDATES)]


def _paired(texts: Sequence[str], distance: int) -> list[str]:
    """Each with the one so far behind it; at no distance as they are."""
    if not distance:
        return list(texts)
    return [f"{text} {texts[(index + distance) % len(texts)]}" for index, text in enumerate(texts)]


def _spelled(pieces: Sequence[str], count: int, seed: int) -> list[str]:
    """Texts of one to six of the pieces, the same at every export."""
    generator = random.Random(seed)
    texts = ["".join(generator.choices(pieces, k=1 + index % 6)) for index in range(count)]
    return [text for text in (text.replace(_SPACE_MARK, " ").strip() for text in texts) if text]


def _pieces_by_script(tokenizer: SentencePieceTokenizer) -> dict[str, list[str]]:
    """Pieces written in one script each; byte and special pieces belong to none."""
    pieces = [piece.decode("utf-8") for piece in tokenizer.pieces(tf.range(tokenizer.vocabulary_size)).numpy()]
    found: dict[str, list[str]] = {}
    for piece in pieces:
        scripts = _scripts(piece) if not (piece.startswith("<") and piece.endswith(">")) else set()
        if len(scripts) == 1:
            found.setdefault(scripts.pop(), []).append(piece)
    return found


def _scripts(text: str) -> set[str]:
    """Scripts of the letters, by the first word of their Unicode names."""
    names = [unicodedata.name(character, "").split() for character in text]
    return {words[0] for words in names if _LETTERS & {word.split("-")[0] for word in words} and words[0] != "MODIFIER"}


def _is_beyond_vocabulary(text: str, tokenizer: SentencePieceTokenizer) -> bool:
    """Whether a byte piece (or the unknown one) is needed to spell it."""
    ids = tokenizer.tokenize(tf.constant([text])).flat_values
    pieces = tokenizer.pieces(ids).numpy()
    return UNK_ID in ids.numpy() or any(piece.startswith(b"<0x") for piece in pieces)
