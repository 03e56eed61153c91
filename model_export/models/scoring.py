"""What a model says of targets that are given: log-probability and rank of every token, in one parallel pass."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from model_export.models.base import Seq2SeqModel

_TOKENS_AT_A_TIME = 256
"""Positions whose logits exist at the same time: a vocabulary's worth of floats for each, several times over."""


class Scores(NamedTuple):
    """Of targets int32 [B, T]; everything is 0 past a target's length."""

    token_log_probs: tf.Tensor  # float32 [B, T]: log softmax of the logits
    token_ranks: tf.Tensor  # int32 [B, T]: how many tokens of the vocabulary are likelier
    attention: tf.Tensor | None  # float32 [B, T, S], paid to each source token; None without attention


def score(
    model: Seq2SeqModel,
    source_ids: tf.Tensor,
    source_lengths: tf.Tensor,
    target_ids: tf.Tensor,
    target_lengths: tf.Tensor,
    start_id: int,
) -> Scores:
    """Score exactly the tokens of the targets (no EOS is added), each given those before it.

    Args:
        model: packed or not.
        source_ids: int32 [B, S].
        source_lengths: int32 [B].
        target_ids: int32 [B, T].
        target_lengths: int32 [B].
        start_id: what the decoder reads before the first token.
    """
    before = tf.pad(target_ids[:, :-1], [[0, 0], [1, 0]], constant_values=start_id)  # [batch, target]
    read = model.teacher_forced({"source_ids": source_ids, "source_lengths": source_lengths, "target_ids": before})
    is_there = tf.sequence_mask(target_lengths, tf.shape(target_ids)[1])
    places = tf.where(is_there)  # [token, 2]: padding has no logits
    log_probs, ranks = _of_tokens(model, tf.gather_nd(read.hidden, places), tf.gather_nd(target_ids, places))
    shape = tf.shape(target_ids, tf.int64)
    return Scores(
        token_log_probs=tf.scatter_nd(places, log_probs, shape),
        token_ranks=tf.scatter_nd(places, ranks, shape),
        attention=None if read.attention is None else tf.where(is_there[:, :, None], read.attention, 0.0),
    )


def _of_tokens(model: Seq2SeqModel, hidden: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Log-probability and rank, each [N], of tokens ``ids`` int32 [N] after hidden states [N, width].

    Piece by piece, so that memory does not grow with the batch: all logits of 32 targets of 256 tokens take a quarter
    of a gigabyte at a vocabulary of 8000, and as much again for each operation on them.
    """
    count = tf.size(ids)
    pieces = -(-count // _TOKENS_AT_A_TIME)

    def one_piece(
        index: tf.Tensor, log_probs: tf.TensorArray, ranks: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.TensorArray, tf.TensorArray]:
        first = index * _TOKENS_AT_A_TIME
        logits = model.output_projection(hidden[first : first + _TOKENS_AT_A_TIME])  # [token, vocabulary]
        own = tf.gather(logits, ids[first : first + _TOKENS_AT_A_TIME], batch_dims=1)  # [token]
        log_prob = own - tf.reduce_logsumexp(logits, axis=-1)
        rank = tf.math.count_nonzero(logits > own[:, None], axis=-1, dtype=tf.int32)
        return index + 1, log_probs.write(index, log_prob), ranks.write(index, rank)

    arrays = [
        tf.TensorArray(dtype, pieces, infer_shape=False, element_shape=[None]) for dtype in (tf.float32, tf.int32)
    ]
    _, *arrays = tf.while_loop(
        lambda index, *_: index < pieces, one_piece, (tf.constant(0), *arrays), parallel_iterations=1
    )
    log_probs, ranks = (array.concat() for array in arrays)
    return log_probs, ranks
