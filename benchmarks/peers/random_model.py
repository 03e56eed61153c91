"""Untrained models of any size with a tokenizer to match, the same at every run; decoding costs them what it must."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_proto

from model_export.config import load_config
from model_export.models import build_model
from model_export.text.tokenizers import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from model_export.trained_model import TrainedModel

FIRST_WORD_ID = 4 + 256 + 1
"""Special tokens, bytes and a space come before it; the rest of the vocabulary are words."""

_SURENESS = 10.0
"""Standard deviation of the logits: the likeliest token has about as much probability as after a training."""
_END = 4.2
"""Bias of EOS in standard deviations of the logits. Answers are short where they may be: only few tokens in a row are
sure enough for a certificate."""
_RESIDUAL = 0.35
"""Gain of a linear layer. With more, rounding would grow from layer to layer."""
_SYLLABLES = ["".join(letters) for letters in itertools.product("bdfgklmnprstvz", "aeiou")]
_SAMPLE_SIZES = (2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24)


def random_model(config: str, overrides: Mapping[str, Any] | None = None) -> TrainedModel:
    """A shipped configuration with weights under which every token depends on the source and on the tokens before it.

    Args:
        config: the configuration's name.
        overrides: dotted keys, as ``load_config`` takes them.
    """
    run = load_config(config, overrides)
    model = build_model(run.model, run.limits)
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) > 1:  # biases and scales stay as they are
            weight.assign(_drawn(weight.path, tuple(weight.shape), generator))
    (bias,) = [weight for weight in model.weights if weight.path.endswith(f"{model.name}/output/bias")]
    biases = np.where(np.arange(run.model.vocabulary_size) < FIRST_WORD_ID, -1e4, 0.0)  # answers are words
    biases[EOS_ID] = _END * _SURENESS
    bias.assign(biases)
    words = _words(run.model.vocabulary_size - FIRST_WORD_ID)
    samples = [" ".join(generator.choice(words, size)) for size in _SAMPLE_SIZES]
    return TrainedModel(run, _tokenizer(words), model, samples, {"data": "none, the weights are random"})


def random_sources(count: int, size: int, vocabulary_size: int) -> list[list[int]]:
    """``count`` rows of ``size`` ids: words, then EOS."""
    ids = np.random.default_rng(1).integers(FIRST_WORD_ID, vocabulary_size, [count, size])
    ids[:, -1] = EOS_ID
    rows: list[list[int]] = ids.tolist()
    return rows


def random_pairs(vocabulary_size: int, count: int = 64) -> str:
    """Lines of source and target text, separated by a tab."""
    words = _words(vocabulary_size - FIRST_WORD_ID)
    generator = np.random.default_rng(2)
    sides = [[" ".join(generator.choice(words, size)) for size in generator.integers(4, 32, 2)] for _ in range(count)]
    return "".join("\t".join(pair) + "\n" for pair in sides)


def _drawn(path: str, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float64]:
    """Weights that keep tokens apart.

    With what a training starts from, attention is even, embeddings drown in what is added to them, and all answers end
    in one token said again and again.
    """
    if path.endswith("embedding/table"):
        return generator.normal(0.0, 3.0 * shape[1] ** -0.5, shape)
    if path.endswith("kernel") and "/cell/" in path:  # of a Keras cell: [in, out]
        return generator.normal(0.0, 2.0 * shape[0] ** -0.5, shape)
    kernel = generator.normal(0.0, _RESIDUAL * shape[1] ** -0.5, shape)  # [out, in]
    if path.count("/") == 2:  # the whole model's, of its output
        kernel *= _SURENESS / _RESIDUAL
    if path.endswith("qkv/kernel"):
        kernel[: 2 * shape[1]] *= 2.0
    if path.endswith("cross_attention/query/kernel"):
        kernel *= 2.0
    if path.endswith("cross_attention/output/kernel"):
        kernel *= 3.0
    if path.endswith("key_value/kernel"):
        kernel[: shape[1]] *= 2.0
    if path.endswith("shrink/kernel"):
        kernel -= kernel.mean(axis=1, keepdims=True)  # what it reads is positive: all outputs would share a direction
    return kernel


def _words(count: int) -> list[str]:
    """Different words, none the beginning of another."""
    spellings = itertools.product(_SYLLABLES, repeat=3)
    return ["".join(syllables) for syllables in itertools.islice(spellings, count)]


def _tokenizer(words: Sequence[str]) -> bytes:
    """A SentencePiece model with a piece for every word, and bytes for all else."""
    kinds = sentencepiece_proto.ModelProto.SentencePiece
    special = {PAD_ID: "<pad>", UNK_ID: "<unk>", BOS_ID: "<s>", EOS_ID: "</s>"}
    pieces = [(special[index], kinds.UNKNOWN if index == UNK_ID else kinds.CONTROL) for index in sorted(special)]
    pieces += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    pieces += [("▁", kinds.NORMAL)]
    pieces += [(f"▁{word}", kinds.NORMAL) for word in words]
    model = sentencepiece_proto.ModelProto()
    for piece, kind in pieces:
        model.pieces.add(piece=piece, score=0.0, type=kind)
    model.trainer_spec.model_type = sentencepiece_proto.TrainerSpec.UNIGRAM
    model.trainer_spec.vocab_size = len(pieces)
    model.trainer_spec.byte_fallback = True
    for name, index in (("pad", PAD_ID), ("unk", UNK_ID), ("bos", BOS_ID), ("eos", EOS_ID)):
        setattr(model.trainer_spec, f"{name}_id", index)
    model.normalizer_spec.name = "identity"
    return bytes(model.SerializeToString())
