"""Building blocks that both architectures share: Keras layers for their weights, plain TensorFlow for their work.

Weights exist once a layer is constructed (no lazy ``build``), so that a layer's methods may be called in any order:
the teacher-forced pass and the decode step use the same layers differently. Composite layers construct their parts
inside ``keras.name_scope(self.name)``, which makes every variable's path unique: the key it is stored under.

``_linear`` is the one place where a model multiplies by a weight matrix; the recurrent cells are Keras's own.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

MASKED = -1e9
"""Added to attention logits that must not count; finite, so that a fully masked row stays free of NaN."""


class Linear(keras.layers.Layer):
    """``x @ kernel^T + bias`` over the last axis, for inputs [..., in_size] of any rank.

    The kernel is [out_size, in_size], as the embedding's table is: see ``_linear``.
    """

    def __init__(self, in_size: int, out_size: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.kernel = self.add_weight(shape=(out_size, in_size), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(out_size,), initializer="zeros", name="bias")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[..., in_size] -> [..., out_size]."""
        return _linear(x, self.kernel, self.bias)


class LayerNorm(keras.layers.Layer):
    """Layer normalisation over the last axis (Ba et al. 2016, https://arxiv.org/abs/1607.06450)."""

    def __init__(self, size: int, epsilon: float = 1e-6, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.gamma = self.add_weight(shape=(size,), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(size,), initializer="zeros", name="beta")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[..., size] -> [..., size]."""
        centered = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
        return centered * (tf.math.rsqrt(variance + self.epsilon) * self.gamma) + self.beta


class TokenEmbedding(keras.layers.Layer):
    """One table for the tokens of encoder and decoder, multiplied by ``scale`` when looked up."""

    def __init__(self, vocabulary_size: int, size: int, scale: float = 1.0, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        initializer = keras.initializers.RandomNormal(stddev=size**-0.5)
        self.table = self.add_weight(shape=(vocabulary_size, size), initializer=initializer, name="table")
        self.built = True

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """int32 [...] -> [..., size]."""
        return tf.gather(tf.convert_to_tensor(self.table), ids) * self.scale


class OutputProjection(keras.layers.Layer):
    """Hidden states to logits.

    With ``tied`` given, its table is the kernel (Press and Wolf 2017, https://arxiv.org/abs/1608.05859) and only the
    bias is new.
    """

    def __init__(self, size: int, vocabulary_size: int, tied: TokenEmbedding | None = None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._tied = tied
        if tied is None:
            self._kernel = self.add_weight(shape=(vocabulary_size, size), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(vocabulary_size,), initializer="zeros", name="bias")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[..., size] -> float32 [..., vocabulary_size]."""
        kernel = self._kernel if self._tied is None else self._tied.table
        return tf.cast(_linear(x, kernel, self.bias), tf.float32)


def _linear(x: tf.Tensor, kernel: keras.Variable, bias: keras.Variable) -> tf.Tensor:
    """[..., in] times ``kernel`` [out, in] -> [..., out].

    All leading axes are rows of one product in the form of a batch of one: for the few rows of a decode step,
    TensorFlow's batched product over a transposed kernel takes two thirds of the time of its plain one; for many rows,
    as long.
    """
    flat = tf.reshape(x, [1, -1, x.shape[-1]])
    y = tf.matmul(flat, tf.convert_to_tensor(kernel)[tf.newaxis], transpose_b=True)[0]
    return _restore(tf.nn.bias_add(y, tf.convert_to_tensor(bias)), x)


def _restore(flat: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """[N, out] -> [..., out] with the leading axes of ``like``."""
    if like.shape.rank == 2:
        return flat
    result = tf.reshape(flat, tf.concat([tf.shape(like)[:-1], [flat.shape[-1]]], axis=0))
    result.set_shape(like.shape[:-1].concatenate(flat.shape[-1:]))
    return result


def padding_bias(lengths: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """float32 [B, size]: 0 where a token stands, ``MASKED`` at and after ``lengths`` int32 [B]."""
    return tf.where(tf.sequence_mask(lengths, size), 0.0, MASKED)


def sinusoidal_positions(count: int, size: int) -> NDArray[np.float32]:
    """float32 [count, size]: sine in even, cosine in odd columns (Vaswani et al. 2017, section 3.5)."""
    angles = np.arange(count)[:, None] / np.power(10_000.0, np.arange(0, size, 2)[None, :] / size)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(count, size).astype(np.float32)
