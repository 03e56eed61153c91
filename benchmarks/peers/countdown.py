"""A model whose answers have known lengths: each counts down, from a number that its source decides.

Only the output layer differs from a random model's: it is fitted to the hidden states that precede each token, and
other tokens are unlikely. What a decode costs is what it costs any model of that size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sentencepiece
import tensorflow as tf
from numpy.typing import NDArray

from benchmarks.peers.random_model import FIRST_WORD_ID
from model_export.artifact.calls import padded
from model_export.text.tokenizers import BOS_ID, EOS_ID
from model_export.trained_model import TrainedModel

_RIDGE = 1e-5
_FIRST_TOKEN_WEIGHT = 8
"""Each first token has to be told from its source alone."""
_GAIN = 25.0
"""Of the logits: a fitted token has about this, the others about 0."""
_DISTANCE = 35.0
"""What all other tokens are less likely by than in the random model, where logits of 40 occur."""
_ROWS_AT_A_TIME = 32


@dataclass(frozen=True)
class Row:
    """One source, and the number of tokens that its answer has before EOS."""

    source: list[int]
    length: int


def countdown_rows(count: int, shortest: int, longest: int, vocabulary_size: int) -> list[Row]:
    """Rows in random order: every length as often as any other, sources 0.7 to 1.3 times as long as their answers."""
    generator = np.random.default_rng(3)
    lengths = np.linspace(shortest, longest, count).round().astype(int)
    generator.shuffle(lengths)
    sizes = np.maximum(2, np.round(lengths * generator.uniform(0.7, 1.3, count))).astype(int)
    sources = [[*generator.integers(FIRST_WORD_ID, vocabulary_size, size - 1).tolist(), EOS_ID] for size in sizes]
    return [Row(source, int(length)) for source, length in zip(sources, lengths, strict=True)]


def countdown(length: int) -> list[int]:
    """The answer of this length, EOS left out."""
    return list(range(FIRST_WORD_ID + length - 1, FIRST_WORD_ID - 1, -1))


def fit_countdowns(trained: TrainedModel, rows: Sequence[Row]) -> None:
    """Set the output layer of ``trained`` (not tied) so that ``rows`` are answered with their countdowns.

    They become its samples.

    Least squares with a small ridge: logits of 1 for the token that is next and 0 for the others, times a gain.
    """
    states, tokens = _states_before_tokens(trained, rows)
    center = states.mean(axis=0)
    used = np.unique(tokens)
    wanted = (tokens[:, None] == used).astype(np.float64)
    centered = states - center
    gram = centered.T @ centered + _RIDGE * len(states) * np.eye(states.shape[1])
    kernel = _GAIN * np.linalg.solve(gram, centered.T @ (wanted - wanted.mean(axis=0))).T  # [used, width]
    output = trained.model.output_projection
    new_kernel, new_bias = output.kernel.numpy().copy(), output.bias.numpy() - _DISTANCE
    new_kernel[used] = kernel
    new_bias[used] = _GAIN * wanted.mean(axis=0) - kernel @ center
    output.kernel.assign(new_kernel)
    output.bias.assign(new_bias)
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=trained.tokenizer)
    trained.samples[:] = [tokenizer.decode(row.source[:-1]) for row in rows]  # it is sure of no others


def _states_before_tokens(trained: TrainedModel, rows: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Hidden states [N, width] at all positions of all answers, some repeated, and the tokens that follow [N]."""
    states, tokens = [], []
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        some = rows[start : start + _ROWS_AT_A_TIME]
        source_ids, source_lengths = padded([row.source for row in some])
        labels, lengths = padded([[*countdown(row.length), EOS_ID] for row in some])
        target_ids = np.pad(labels[:, :-1], [[0, 0], [1, 0]], constant_values=BOS_ID)
        inputs = {"source_ids": source_ids, "source_lengths": source_lengths, "target_ids": target_ids}
        hidden = trained.model.teacher_forced({name: tf.constant(value) for name, value in inputs.items()}).hidden
        for row_states, row_labels, length in zip(hidden.numpy(), labels, lengths, strict=True):
            counts = [_FIRST_TOKEN_WEIGHT] + [1] * (length - 1)
            states.append(np.repeat(row_states[:length], counts, axis=0))
            tokens.append(np.repeat(row_labels[:length], counts))
    return np.concatenate(states).astype(np.float64), np.concatenate(tokens)
