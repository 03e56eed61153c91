"""What the scripted backend says of its models: a tokenizer of a few words, and a manifest."""

from __future__ import annotations

import functools
import io
from typing import Final

import sentencepiece

from model_export.contract import (
    SIGNATURES,
    SUPPORTED_OPTIONS,
    Framing,
    Limits,
    Manifest,
    SpecialIds,
    TokenizerInfo,
    sha256,
)

WORDS: Final = (
    "a echo is it no one said says so that the then to what who word words yes you 말 길 말길 이 가 는 좋다 le mot"
)
"""What the tokenizer is trained on; any other text is spelled in characters and bytes."""

LIMITS: Final = Limits(max_source_tokens=512, max_target_tokens=512, max_beam_size=8, default_max_new_tokens=128)
SPECIAL_IDS: Final = SpecialIds(pad=0, unk=1, bos=2, eos=3)
_NOT_PLAYED: Final = frozenset({"serving_default", "beam_search"})
"""Signatures that Malgil itself never calls."""


@functools.cache
def tiny_tokenizer() -> bytes:
    """A SentencePiece model of ``WORDS``, with byte fallback."""
    return train_tokenizer(WORDS, 400)


def train_tokenizer(words: str, most_tokens: int, *, byte_fallback: bool = True) -> bytes:
    """A SentencePiece model of a few words; trained in some 30 ms."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(words.split()),
        model_writer=model,
        vocab_size=most_tokens,
        hard_vocab_limit=False,
        byte_fallback=byte_fallback,
        character_coverage=1.0,
        normalization_rule_name="nfkc",
        pad_id=SPECIAL_IDS.pad,
        unk_id=SPECIAL_IDS.unk,
        bos_id=SPECIAL_IDS.bos,
        eos_id=SPECIAL_IDS.eos,
        minloglevel=2,
    )
    return model.getvalue()


def scripted_manifest(name: str, limits: Limits = LIMITS) -> Manifest:
    """What an artifact that behaves like the script would say of itself."""
    tokenizer = tiny_tokenizer()
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
    return Manifest(
        model_name=name,
        architecture="scripted",
        parameter_count=0,
        special_ids=SPECIAL_IDS,
        framing=Framing(source_prefix=(), source_suffix=(SPECIAL_IDS.eos,), decoder_start=(SPECIAL_IDS.bos,)),
        limits=limits,
        tokenizer=TokenizerInfo("sentencepiece", sha256(tokenizer), processor.GetPieceSize(), byte_fallback=True),
        supported_options=SUPPORTED_OPTIONS,
        dtype="float32",
        required_ops=(),
        signatures={name: signature for name, signature in SIGNATURES.items() if name not in _NOT_PLAYED},
        mixed_beam_sizes=True,
    )
