"""Texts to token ids and back, in the gateway: SentencePiece from the artifact's own model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import sentencepiece


class Unknown(NamedTuple):
    """Characters of a text that no token stands for; ``position`` is where they begin, in characters from 0."""

    position: int
    characters: str


class Tokenizer(Protocol):
    """Tokens of one artifact. Thread-safe; without the framing that the model puts around a text."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; none for a text of which normalization leaves nothing."""
        ...

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence; control ids (padding, start, end) have none."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The piece of each id."""
        ...

    def unknown(self, text: str, tokens: int) -> list[Unknown]:
        """What the unknown tokens among the first ``tokens`` of the text stand for."""
        ...


class SentencePieceTokenizer:
    """SentencePiece (Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226)."""

    def __init__(self, model: bytes) -> None:
        """``model``: a serialized SentencePiece model. Raises ValueError if it is none."""
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError(f"not a SentencePiece model: {error}") from error

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """As in ``Tokenizer``."""
        # One by one (2 µs each): SentencePiece starts and joins threads for a list, at 20 to 500 µs a call.
        return [self._processor.Encode(text) for text in texts]

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """As in ``Tokenizer``."""
        return [self._processor.Decode(list(ids)) for ids in sequences]  # one by one, as in encode

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """As in ``Tokenizer``."""
        pieces: list[str] = self._processor.IdToPiece(list(ids))
        return pieces

    def unknown(self, text: str, tokens: int) -> list[Unknown]:
        """As in ``Tokenizer``."""
        mapping = self._processor.EncodeAsOffsetMapping(text)
        ends: dict[int, int] = {}
        for token, (begin, end) in zip(mapping["ids"][:tokens], mapping["offsets"], strict=False):
            if token == self._processor.unk_id():
                # A character that normalization spells in several pieces is given whole to the last of them.
                ends[begin] = max(ends.get(begin, begin + 1), end)
        return [Unknown(begin, text[begin:end]) for begin, end in ends.items()]
