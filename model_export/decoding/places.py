"""Where the beams of a batch are: ``K`` places for each of ``B`` rows, of which the beams of a row take the first."""

from __future__ import annotations

import tensorflow as tf

from model_export.decoding.step import Places


def places_of(is_taken: tf.Tensor) -> Places:
    """Where ``is_taken`` bool [B, K] holds: at least in the first place of every row."""
    flat = tf.reshape(is_taken, [-1])
    taken = tf.cast(tf.where(flat)[:, 0], tf.int32)  # [taken]
    index = tf.reshape(tf.cumsum(tf.cast(flat, tf.int32)) - 1, tf.shape(is_taken))  # [batch, beam]
    return Places(taken, taken // tf.shape(is_taken)[1], index)


def packed(values: tf.Tensor, places: Places | None) -> tf.Tensor:
    """[B, K] or [B, K, C] -> [N] or [N, C]; without ``places`` each row has one, which is taken."""
    flat = tf.reshape(values, [-1] if values.shape.rank == 2 else [-1, tf.shape(values)[2]])
    return flat if places is None else tf.gather(flat, places.taken)


def unpacked(values: tf.Tensor, places: Places | None) -> tf.Tensor:
    """[N, ...] -> [B, K, ...]: the inverse of ``packed``, but for what stands in places that are not taken."""
    return tf.expand_dims(values, 1) if places is None else tf.gather(values, places.index)
