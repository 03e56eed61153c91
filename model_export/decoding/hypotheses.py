"""What a search answers."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from model_export.contract import FinishReason


class Hypotheses(NamedTuple):
    """Up to ``K`` answers per row, best first. Everything speaks of new tokens only: EOS counts, a prefix does not.

    Unused places have length 0, ``FinishReason.NONE`` and scores of minus infinity.
    """

    ids: tf.Tensor  # int32 [B, K, T], pad past the length
    lengths: tf.Tensor  # int32 [B, K], EOS included
    finish_reasons: tf.Tensor  # int32 [B, K], values of FinishReason
    scores: tf.Tensor  # float32 [B, K]: sum of token_log_probs
    normalized_scores: tf.Tensor  # float32 [B, K]: score / length ** length_penalty, what ranks them
    token_log_probs: tf.Tensor  # float32 [B, K, T]: log softmax of the unmodified logits, 0 past the length


def no_hypotheses(batch: tf.Tensor, count: int | tf.Tensor, capacity: int | tf.Tensor, pad: int) -> Hypotheses:
    """``count`` unused places for each of ``batch`` rows, with room for ``capacity`` tokens."""
    return Hypotheses(
        ids=tf.fill([batch, count, capacity], pad),
        lengths=tf.zeros([batch, count], tf.int32),
        finish_reasons=tf.fill([batch, count], int(FinishReason.NONE)),
        scores=tf.fill([batch, count], float("-inf")),
        normalized_scores=tf.fill([batch, count], float("-inf")),
        token_log_probs=tf.zeros([batch, count, capacity]),
    )


def growing(sequences: tf.Tensor) -> tf.Tensor:
    """``sequences`` [..., 0], of whose last size a graph is told nothing, because tokens will be appended in a loop."""
    return tf.compat.v1.placeholder_with_default(sequences, [*sequences.shape[:-1], None])


def with_capacity(hypotheses: Hypotheses, capacity: tf.Tensor, pad: int) -> Hypotheses:
    """Room for ``capacity`` tokens, at least as many as there is room for."""
    padding = [[0, 0], [0, 0], [0, capacity - tf.shape(hypotheses.ids)[2]]]
    return hypotheses._replace(
        ids=tf.pad(hypotheses.ids, padding, constant_values=pad),
        token_log_probs=tf.pad(hypotheses.token_log_probs, padding),
    )


def without(hypotheses: Hypotheses, unwanted: tf.Tensor, pad: int) -> Hypotheses:
    """The places where ``unwanted`` bool [B, K] holds become unused."""
    batch, count, capacity = tf.unstack(tf.shape(hypotheses.ids))

    def blank(field: tf.Tensor, empty: tf.Tensor) -> tf.Tensor:
        return tf.where(unwanted[:, :, None] if field.shape.rank == 3 else unwanted, empty, field)

    kept: Hypotheses = tf.nest.map_structure(blank, hypotheses, no_hypotheses(batch, count, capacity, pad))
    return kept


def keep_wanted(hypotheses: Hypotheses, num_hypotheses: tf.Tensor, pad: int) -> Hypotheses:
    """The ``num_hypotheses`` [B] best of each row; ``K`` becomes their maximum, ``T`` the longest kept length."""
    count = tf.reduce_max(num_hypotheses)
    first = tf.nest.map_structure(lambda field: field[:, :count], hypotheses)
    kept = without(first, ~tf.sequence_mask(num_hypotheses, count), pad)
    longest = tf.reduce_max(kept.lengths)
    return kept._replace(ids=kept.ids[:, :, :longest], token_log_probs=kept.token_log_probs[:, :, :longest])
