"""Building blocks that both architectures share: Keras layers for their weights, plain TensorFlow for their work.

Weights exist once a layer is constructed (no lazy ``build``), so that a layer's methods may be called in any order:
the teacher-forced pass and the decode step use the same layers differently. Composite layers construct their parts
inside ``keras.name_scope(self.name)``, which makes every variable's path unique: the key it is stored under.

``Linear`` is the one place where a model multiplies by a weight matrix; the recurrent cells are Keras's own.
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

    The kernel is [out_size, in_size], as an embedding's table is: with ``tied`` given, its table is the kernel (Press
    and Wolf 2017, https://arxiv.org/abs/1608.05859) and only the bias is new. ``pack`` readies it for decoding.
    """

    def __init__(self, in_size: int, out_size: int, tied: TokenEmbedding | None = None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._tied = tied
        if tied is None:
            self._kernel = self.add_weight(shape=(out_size, in_size), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(out_size,), initializer="zeros", name="bias")
        self._packed: _PackedKernel | None = None
        self.built = True

    @property
    def kernel(self) -> keras.Variable:
        """[out_size, in_size]."""
        return self._kernel if self._tied is None else self._tied.table

    def pack(self) -> tf.Variable:
        """Lay a copy of the kernel out for decoding and use it from now on; returns what is read in its place.

        Training does not reach the copy: call again when the kernel has changed.
        """
        self._packed = _PackedKernel(self.kernel.numpy())
        return self._packed.blocks

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[..., in_size] -> [..., out_size]."""
        flat = tf.reshape(x, [-1, x.shape[-1]])  # all leading axes are rows of one product
        if self._packed is not None:
            y = self._packed.product(flat)
        else:  # as a batch of one, which oneDNN computes faster than a plain product for few rows, as fast for many
            y = tf.matmul(flat[tf.newaxis], tf.convert_to_tensor(self.kernel)[tf.newaxis], transpose_b=True)[0]
        return _restore(tf.nn.bias_add(y, tf.convert_to_tensor(self.bias)), x)


class _PackedKernel:
    """A kernel cut into blocks of outputs, each stored input-major: float32 [blocks, in, 48], the last padded with 0.

    A decode step reads every weight of the decoder for a handful of rows. Of a matrix whose rows lie kilobytes apart,
    oneDNN copies each tile into a buffer first; a block it multiplies where it lies, in the order of memory.
    """

    _BLOCK = 48
    """Three AVX-512 registers: for eight rows their products stay in registers, and for hundreds it is no slower."""

    def __init__(self, kernel: NDArray[np.float32]) -> None:
        """``kernel`` [out, in]."""
        self._out_size, in_size = kernel.shape
        block = min(self._BLOCK, self._out_size)
        count = -(-self._out_size // block)
        padded = np.pad(kernel, [[0, count * block - self._out_size], [0, 0]])
        self.blocks = tf.Variable(padded.reshape(count, block, in_size).transpose(0, 2, 1), trainable=False)

    def product(self, x: tf.Tensor) -> tf.Tensor:
        """[N, in] -> [N, out]."""
        count, _, block = self.blocks.shape
        y = tf.matmul(x[tf.newaxis], tf.convert_to_tensor(self.blocks))  # [blocks, N, 48]
        y = tf.reshape(tf.transpose(y, [1, 0, 2]), [-1, count * block])
        return y if count * block == self._out_size else y[:, : self._out_size]


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
