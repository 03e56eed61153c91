"""Texts to token ids and back, in the gateway: SentencePiece from the artifact's own model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import sentencepiece


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
