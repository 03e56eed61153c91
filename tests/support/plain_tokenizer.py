"""A tokenizer that does not spell in bytes what it does not know."""

from __future__ import annotations

import functools

from service.backends.scripted_artifact import SPECIAL_IDS, train_tokenizer

UNK = SPECIAL_IDS.unk
WORDS = "the word says no so that one echo to what is it you"


@functools.cache
def plain_tokenizer() -> bytes:
    """A SentencePiece model of a few words: of other characters it makes the unknown token, ``UNK``."""
    return train_tokenizer(WORDS, 60, byte_fallback=False)
