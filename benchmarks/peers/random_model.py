"""Untrained models of any size with a tokenizer to match, the same at every run; decoding costs them what it must."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_proto

from model_export.config import load_config
from model_export.models import Seq2SeqModel, build_model
from model_export.text.tokenizers import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from model_export.trained_model import TrainedModel

_FIRST_BYTE_ID = 4
FIRST_WORD_ID = _FIRST_BYTE_ID + 256 + 1
"""Special tokens, bytes and a space come before it; the rest of the vocabulary are words."""

_SURENESS = 10.0
"""Standard deviation of the logits: the likeliest token has about as much probability as after a training."""
_CLOSING_WORDS = 64
"""The last words of the vocabulary. Answers to sources of these, or of bytes, end soon: only few tokens in a row are
sure enough for a certificate. Others do not end: where EOS may not be said yet, engines differ in what that does to the
probabilities of all other tokens, and find the same only where EOS is unlikely anyway."""
_CLOSING = 3.0
"""Length of what the embeddings of closing words share; each is about as long without it."""
_END, _NO_END = 32.0, -78.0
"""Mean logit of EOS in answers to closing and to other words; the likeliest other token has about 40."""
_RESIDUAL = 0.35
"""Gain of a linear layer. With more, rounding would grow from layer to layer."""
_CELL = 2.0
"""Gain of a recurrent cell."""
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
    is_word = np.arange(run.model.vocabulary_size) >= FIRST_WORD_ID
    model.output_projection.bias.assign(np.where(is_word, 0.0, -1e4))  # answers are words
    _fit_end(model, run.model.vocabulary_size, generator)
    words = _words(run.model.vocabulary_size - FIRST_WORD_ID)
    samples = [" ".join(generator.choice(words[-_CLOSING_WORDS:], size)) for size in _SAMPLE_SIZES]
    return TrainedModel(run, _tokenizer(words), model, samples, {"data": "none, the weights are random"})


def random_sources(count: int, size: int, vocabulary_size: int) -> list[list[int]]:
    """``count`` rows of ``size`` ids: words whose answers do not end, then EOS."""
    ids = np.random.default_rng(1).integers(FIRST_WORD_ID, vocabulary_size - _CLOSING_WORDS, [count, size])
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
    kernel = generator.normal(0.0, _RESIDUAL * shape[1] ** -0.5, shape)  # [out, in]
    if path.endswith(("/input/kernel", "hidden/kernel")):  # of a recurrent cell
        return kernel * (_CELL / _RESIDUAL)
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


def _fit_end(model: Seq2SeqModel, vocabulary_size: int, generator: np.random.Generator) -> None:
    """Make EOS likely in answers to closing words and unlikely in all others.

    The embeddings of closing words get a direction that they share; what the decoder makes of it is told apart from
    what it makes of other sources by linear discriminant analysis (Fisher 1936).
    """
    first_closing = vocabulary_size - _CLOSING_WORDS
    table = model.embedding.table
    embeddings = table.numpy().copy()
    shared = generator.normal(0.0, _CLOSING * embeddings.shape[1] ** -0.5, embeddings.shape[1])
    for ids in (slice(_FIRST_BYTE_ID, FIRST_WORD_ID), slice(first_closing, None)):
        embeddings[ids] += shared
    table.assign(embeddings)

    others = _states(model, range(FIRST_WORD_ID, first_closing), 32, generator)
    of_words = _states(model, range(first_closing, vocabulary_size), 8, generator)
    of_bytes = _states(model, range(_FIRST_BYTE_ID, FIRST_WORD_ID), 8, generator)
    closing = np.concatenate([of_words, of_bytes])
    scatter = np.cov(others.T) + np.cov(closing.T)
    scatter += 1e-3 * np.diag(scatter).mean() * np.eye(len(scatter))
    apart = closing.mean(axis=0) - others.mean(axis=0)
    direction = np.linalg.solve(scatter, apart)
    output = model.output_projection
    kernel, bias = output.kernel.numpy().copy(), output.bias.numpy().copy()
    kernel[EOS_ID] = (_END - _NO_END) / (apart @ direction) * direction
    bias[EOS_ID] = _END - closing.mean(axis=0) @ kernel[EOS_ID]
    output.kernel.assign(kernel)
    output.bias.assign(bias)


def _states(model: Seq2SeqModel, ids: range, rows: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """What the output layer reads [N, width], after ``rows`` sources of ``ids`` in each of some sizes."""
    states = []
    for size in (2, 4, 6, 8, 12, 20, 20, 32):
        source_ids = generator.integers(ids.start, ids.stop, [rows, size])
        source_ids[:, -1] = EOS_ID
        target_ids = generator.integers(FIRST_WORD_ID, model.embedding.table.shape[0], [rows, 24])
        target_ids[:, 0] = BOS_ID
        inputs = {"source_ids": source_ids, "source_lengths": np.full(rows, size), "target_ids": target_ids}
        hidden = model.teacher_forced({name: tf.constant(value, tf.int32) for name, value in inputs.items()}).hidden
        states.append(hidden.numpy().reshape([-1, hidden.shape[-1]]))
    return np.concatenate(states).astype(np.float64)


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
