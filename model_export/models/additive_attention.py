"""Attention of a recurrent decoder over what the encoder read."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from model_export.models.layers import Linear, padding_bias


class Memory(NamedTuple):
    """The encoder's outputs as attention reads them, the same at every step."""

    values: tf.Tensor  # float32 [B, S, units]
    keys: tf.Tensor  # float32 [B, S, units]
    bias: tf.Tensor  # float32 [B, 1, S]


class AdditiveAttention(keras.layers.Layer):
    """``softmax(v tanh(W q + U m + b) + c)`` over the memory m (Bahdanau et al. 2015, https://arxiv.org/abs/1409.0473).

    ``v`` has one output: its time goes into the reading of its inputs, so that no narrower dtype would help, and
    quantizing them would cost more than the product.
    """

    def __init__(self, units: int, **kwargs: object) -> None:
        super().__init__(autocast=False, **kwargs)
        with keras.name_scope(self.name):
            self.query_projection = Linear(units, units, name="query")
            self.key_projection = Linear(units, units, name="key")
        self.score_kernel = self.add_weight(shape=(units, 1), initializer="glorot_uniform", name="score_kernel")
        self.score_bias = self.add_weight(shape=(1,), initializer="zeros", name="score_bias")
        self.built = True

    def memory(self, values: tf.Tensor, lengths: tf.Tensor) -> Memory:
        """Of ``values`` [B, S, units], where each row has ``lengths`` [B] of them."""
        bias = padding_bias(lengths, tf.shape(values)[1]) + tf.convert_to_tensor(self.score_bias)
        return Memory(values, tf.cast(self.key_projection(values), tf.float32), bias[:, tf.newaxis, :])

    def call(self, query: tf.Tensor, memory: Memory) -> tuple[tf.Tensor, tf.Tensor]:
        """``query`` [B*K, units] -> what is read of the memory [B*K, units], and the weights [B, K, S], whose sum over
        the source is 1."""
        units = query.shape[-1]
        batch, source = tf.unstack(tf.shape(memory.keys)[:2])
        queries = tf.reshape(tf.cast(self.query_projection(query), tf.float32), [batch, -1, 1, units])
        mixed = tf.tanh(queries + memory.keys[:, tf.newaxis])  # [batch, beam, source, units]
        scores = tf.matmul(tf.reshape(mixed, [-1, units]), tf.convert_to_tensor(self.score_kernel))
        weights = tf.nn.softmax(tf.reshape(scores, [batch, -1, source]) + memory.bias)  # [batch, beam, source]
        return tf.reshape(tf.matmul(weights, memory.values), [-1, units]), weights
