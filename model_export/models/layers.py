"""Building blocks that both architectures share: Keras layers for their weights, plain TensorFlow for their work.

Weights exist once a layer is constructed (no lazy ``build``), so that a layer's methods may be called in any order:
the teacher-forced pass and the decode step use the same layers differently. Composite layers construct their parts
inside ``keras.name_scope(self.name)``, which makes every variable's path unique: the key it is stored under.

``Linear`` is the one place where a model multiplies by a weight matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model_export.contract import Dtype
from model_export.models.kernels import pack as pack_kernel
from model_export.models.precision import FLOAT32, Kernel, LinearWeights, Precision
from model_export.models.range_observer import RangeObserver

Initializer = str | Callable[..., tf.Tensor]
Writing = Callable[[NDArray[np.float32]], NDArray[np.float32]]

MASKED = -1e9
"""Added to attention logits that must not count; finite, so that a fully masked row stays free of NaN."""


class Linear(keras.layers.Layer):
    """``x @ kernel^T + bias`` over the last axis, for inputs [..., in_size] of any rank; ReLU after it where wanted.

    The kernel is [out_size, in_size], as an embedding's table is: with ``tied`` given, its table is the kernel (Press
    and Wolf 2017, https://arxiv.org/abs/1608.05859) and only the bias is new. ``pack`` readies it for decoding; after
    that outputs may be bfloat16.
    """

    def __init__(
        self,
        in_size: int,
        out_size: int,
        tied: TokenEmbedding | None = None,
        *,
        is_relu: bool = False,
        is_kept: bool = False,
        is_final: bool = False,
        output_scale: NDArray[np.float32] | None = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        **kwargs: object,
    ) -> None:
        """
        Args:
            in_size: of an input.
            out_size: of an output.
            tied: the embedding whose table is the kernel.
            is_relu: ReLU follows.
            is_kept: outputs are kept from step to step, or meet what is: keys, values and queries.
            is_final: outputs are logits.
            output_scale: what outputs are multiplied by, [out_size]; costs nothing once it is packed.
            use_bias: whether there is one.
            kernel_initializer: fills [out_size, in_size].
            bias_initializer: fills [out_size].
        """
        super().__init__(autocast=False, **kwargs)
        self._tied = tied
        if tied is None:
            self._kernel = self.add_weight(shape=(out_size, in_size), initializer=kernel_initializer, name="kernel")
        self.bias = self.add_weight(shape=(out_size,), initializer=bias_initializer, name="bias") if use_bias else None
        self._is_relu, self._is_kept, self._is_final = is_relu, is_kept, is_final
        self._output_scale = output_scale
        self._reader: str | None = None
        self._is_positive = False
        self._read: Callable[..., tuple[NDArray[np.float32], NDArray[np.float32]]] | None = None
        self._written: Writing | None = None
        self._packed: Kernel | None = None
        self.built = True

    @property
    def key(self) -> str:
        """Its name in ``Precision.input_ranges``."""
        path: str = (self.kernel if self.bias is None else self.bias).path
        return path.rpartition("/")[0]

    @property
    def kernel(self) -> keras.Variable:
        """[out_size, in_size]."""
        return self._kernel if self._tied is None else self._tied.table

    def read_by(self, reader: Linear) -> None:
        """Let it know the one layer that reads its outputs, with nothing between the two but ReLU.

        Without ReLU between them it makes no difference.
        """
        self._reader = reader.key
        reader._is_positive = self._is_relu

    def reads_stream(self, norm: StreamNorm) -> None:
        """Let it know that all it reads comes from ``norm``, whose work it takes over once they are packed."""
        self._read = norm.read  # not the norm itself: its weights are not this layer's

    def writes_stream(self, norm: StreamNorm) -> None:
        """Let it know that all it gives is added to a stream that ``norm`` reads."""
        self._written = norm.written

    def pack(self, precision: Precision = FLOAT32) -> Sequence[tf.Variable]:
        """Make a copy of the weights for decoding and use it from now on; returns what is read in their place.

        Training does not reach the copy: call again when the weights have changed.
        """
        return self.use(pack_kernel(self._trained(), precision, self.key))

    def observe(self) -> RangeObserver:
        """Use what notes the range of inputs, until ``pack``."""
        observer = RangeObserver(self._trained())
        self.use(observer)
        return observer

    def use(self, kernel: Kernel) -> Sequence[tf.Variable]:
        """Multiply by ``kernel``; returns what it reads."""
        self._packed = kernel
        return kernel.variables

    def _trained(self) -> LinearWeights:
        kernel = self.kernel.numpy()
        bias = np.zeros(len(kernel), np.float32) if self.bias is None else self.bias.numpy()
        if self._read is not None:
            kernel, bias = self._read(kernel, bias)
        if self._written is not None:
            kernel, bias = self._written(kernel.T).T, self._written(bias)
        if self._output_scale is not None:
            kernel, bias = kernel * self._output_scale[:, None], bias * self._output_scale
        reader = self._reader if self._is_relu else None
        return LinearWeights(
            kernel, bias, self._is_relu, self._is_kept, self._is_final, is_positive=self._is_positive, reader=reader
        )

    def call(self, x: tf.Tensor, residual: tf.Tensor | None = None) -> tf.Tensor:
        """[..., in_size] -> [..., out_size]; with a ``residual`` [..., out_size], which is added, float32."""
        flat = tf.reshape(x, [-1, x.shape[-1]]) if x.shape.rank != 2 else x  # all leading axes are rows of one product
        if self._packed is not None:
            if residual is not None and residual.shape.rank != 2:
                residual = tf.reshape(residual, [-1, residual.shape[-1]])
            return _restore(self._packed(flat, residual), x)
        y = tf.matmul(flat, tf.convert_to_tensor(self.kernel), transpose_b=True)
        y = y if self.bias is None else tf.nn.bias_add(y, tf.convert_to_tensor(self.bias))
        if self._output_scale is not None:
            y *= self._output_scale
        y = _restore(tf.nn.relu(y) if self._is_relu else y, x)
        return y if residual is None else y + residual


class LayerNorm(keras.layers.Layer):
    """Layer normalisation over the last axis (Ba et al. 2016, https://arxiv.org/abs/1607.06450)."""

    def __init__(self, size: int, epsilon: float = 1e-6, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.gamma = self.add_weight(shape=(size,), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(size,), initializer="zeros", name="beta")
        self._packed: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        self.built = True

    def pack(self, dtype: Dtype = "float32") -> None:
        """Use a copy of the weights from now on, which a graph holds: reading variables costs as much as the work."""
        self._packed = (self.gamma.numpy(), self.beta.numpy())

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[..., size] -> [..., size]."""
        gamma, beta = self._packed or (self.gamma, self.beta)
        centered = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
        return centered * (tf.math.rsqrt(variance + self.epsilon) * gamma) + beta


class StreamNorm(LayerNorm):
    """The norm of a residual stream: of a sum of what embeddings and linear layers write, read through norms alone.

    Then most of its work can be done beforehand, in the weights of those layers. Once packed,

    - all that is written has a mean of 0 over the last axis (``written``), so none is subtracted;
    - what begins the stream adds a constant, by which the sum of squares becomes ``size * (variance + epsilon)``;
    - readers leave the constant out and multiply by gain and ``sqrt(size)``, and their bias has the offset (``read``).

    What is left to do is to divide by the Euclidean norm. For int8 the stream is turned besides, to axes on which no
    number stands out from the others (Ashkboos et al. 2024, QuaRot, https://arxiv.org/abs/2404.00456).
    """

    _axes: NDArray[np.float32] | None = None

    def pack(self, dtype: Dtype = "float32") -> None:
        """See ``LayerNorm.pack``."""
        super().pack(dtype)
        self._axes = _random_axes(self.gamma.shape[0]) if dtype == "int8" else None

    def written(self, values: NDArray[np.float32], *, is_first: bool = False) -> NDArray[np.float32]:
        """``values`` [..., size] as they have to be written; ``is_first`` of one of those that begin a stream."""
        centered = values - values.mean(axis=-1, keepdims=True) + (np.float32(self.epsilon**0.5) if is_first else 0.0)
        return centered if self._axes is None else centered @ self._axes

    def read(
        self, kernel: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Kernel [out, size] and bias [out] of a reader as they have to be."""
        scaled = kernel * (self.gamma.numpy() * np.float32(kernel.shape[1] ** 0.5))
        centered = scaled - scaled.mean(axis=1, keepdims=True)
        return centered if self._axes is None else centered @ self._axes, bias + kernel @ self.beta.numpy()

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[..., size] -> [..., size]."""
        if self._packed is None:
            return super().call(x)
        return x / tf.math.reduce_euclidean_norm(x, axis=-1, keepdims=True)


@cache
def _random_axes(size: int) -> NDArray[np.float32]:
    """An orthogonal matrix [size, size], always the same."""
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=[size, size]))
    return axes.astype(np.float32)


class TokenEmbedding(keras.layers.Layer):
    """One table for the tokens of encoder and decoder, multiplied by ``scale`` when looked up."""

    def __init__(self, vocabulary_size: int, size: int, scale: float = 1.0, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        initializer = keras.initializers.RandomNormal(stddev=size**-0.5)
        self.table = self.add_weight(shape=(vocabulary_size, size), initializer=initializer, name="table")
        self._written: Writing | None = None
        self._packed: tf.Variable | None = None
        self.built = True

    def begins_stream(self, norm: StreamNorm) -> None:
        """Let it know that all it gives is part of what a stream begins with, which ``norm`` reads."""
        self._written = norm.written

    def pack(self) -> tf.Variable:
        """Use a copy of the table from now on, scale included, which is returned."""
        table = self.table.numpy() * np.float32(self.scale)
        self._packed = tf.Variable(table if self._written is None else self._written(table), trainable=False)
        return self._packed

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """int32 [...] -> [..., size]."""
        if self._packed is not None:
            return tf.gather(tf.convert_to_tensor(self._packed), ids)
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
