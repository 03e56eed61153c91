"""A tokenizer that does not spell in bytes what it does not know."""

from __future__ import annotations

import functools
import io

import sentencepiece

UNK = 1
WORDS = "the word says no so that one echo to what is it you"


@functools.cache
def plain_tokenizer() -> bytes:
    """A SentencePiece model of a few words: of other characters it makes the unknown token, ``UNK``."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(WORDS.split()),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        byte_fallback=False,
        normalization_rule_name="nfkc",
        pad_id=0,
        unk_id=UNK,
        bos_id=2,
        eos_id=3,
        minloglevel=2,
    )
    return model.getvalue()
