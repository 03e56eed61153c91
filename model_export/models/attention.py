"""Multi-head attention (Vaswani et al. 2017, section 3.2.2): two kinds of input projection around one core.

Notation: ``H`` heads, ``Dh`` size of a head, ``Q`` queries, ``M`` memory positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from model_export.models.layers import Linear

if TYPE_CHECKING:
    from model_export.decoding.step import Places


class HeadRows(NamedTuple):
    """Where the heads of ``N`` queries, those of the places that are taken, are among those of all places, and back.

    To gather rows by tables that are made once takes less time than to transpose, and leaves out what is not taken.
    """

    queries: tf.Tensor  # int32 [B, H, K]: which of the rows [N*H, Dh] of the queries
    answers: tf.Tensor  # int32 [N, H]: which of the rows [B*H*K, Dh] of what attention gives

    @classmethod
    def nowhere(cls, heads: int) -> HeadRows:
        """Of no places."""
        return cls(tf.zeros([0, heads, 0], tf.int32), tf.zeros([0, heads], tf.int32))

    @classmethod
    def of(cls, places: Places, heads: int) -> HeadRows:
        """Of these places."""
        beams, head = tf.shape(places.index)[1], tf.range(heads)
        first = places.taken + places.rows * (heads - 1) * beams  # [place]: of head 0
        queries = tf.expand_dims(places.index, 1) * heads + tf.expand_dims(head, 1)
        return cls(queries, tf.expand_dims(first, 1) + head * beams)


def split_heads(x: tf.Tensor, heads: int, queries: tf.Tensor) -> tf.Tensor:
    """[B, Q, H*Dh] -> [B, H, Q, Dh]."""
    return tf.transpose(tf.reshape(x, [-1, queries, heads, x.shape[-1] // heads]), [0, 2, 1, 3])


def merge_heads(x: tf.Tensor) -> tf.Tensor:
    """[B, H, Q, Dh] -> rows [B*Q, H*Dh]."""
    return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [-1, x.shape[1] * x.shape[3]])


def _softmax(products: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax(products + tf.cast(bias, products.dtype))


class Attention(keras.layers.Layer):
    """``softmax(q k^T / sqrt(Dh) + bias) v``, then the output projection.

    Subclasses own the input projections, which scale queries by ``head_scale``. All has the dtype of keys and values.
    """

    def __init__(self, width: int, heads: int, **kwargs: object) -> None:
        super().__init__(autocast=False, **kwargs)
        self.width = width
        self.heads = heads
        self.head_scale = (width // heads) ** -0.5
        with keras.name_scope(self.name):
            self.output_projection = Linear(width, width, name="output")
        self.built = True

    def split(self, projected: tf.Tensor, parts: int) -> list[tf.Tensor]:
        """[B, Q, parts*width] -> ``parts`` times [B, H, Q, Dh]."""
        queries = tf.shape(projected)[1]
        return [split_heads(part, self.heads, queries) for part in tf.split(projected, parts, axis=-1)]

    def attend(
        self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, bias: tf.Tensor, residual: tf.Tensor | None = None
    ) -> tf.Tensor:
        """``query`` [B,H,Q,Dh], ``key`` and ``value`` [B,H,M,Dh], ``bias`` broadcast to [B,H,Q,M] -> [B,Q,width].

        ``residual`` [B,Q,width] is added, here and in all that answers with this width.
        """
        return self.mix(self.attention_weights(query, key, bias), value, residual)

    def attention_weights(self, query: tf.Tensor, key: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """How much every query attends to every place, [B, H, Q, M]; the sum over the places is 1."""
        return _softmax(tf.matmul(query, key, transpose_b=True), bias)

    def mix(self, weights: tf.Tensor, value: tf.Tensor, residual: tf.Tensor | None = None) -> tf.Tensor:
        """``weights`` [B, H, Q, M] of values [B, H, M, Dh], projected: [B, Q, width]."""
        mixed = tf.reshape(merge_heads(tf.matmul(weights, value)), [-1, tf.shape(weights)[2], self.width])
        return self.output_projection(mixed, residual)

    def attend_rows(
        self,
        query: tf.Tensor,
        key: tf.Tensor,
        value: tf.Tensor,
        bias: tf.Tensor,
        rows: HeadRows | None,
        residual: tf.Tensor | None,
        *,
        transpose_key: bool = False,
    ) -> tf.Tensor:
        """``attend`` with one query a row, [N, width] -> [N, width]; without ``rows`` it is the only one of its batch.

        ``key`` is [B,H,Dh,M], or [B,H,M,Dh] with ``transpose_key``.
        """
        size = self.width // self.heads
        if rows is None:
            query = tf.reshape(query, [-1, self.heads, 1, size])  # [batch, head, 1, size]
        else:
            query = tf.gather(tf.reshape(query, [-1, size]), rows.queries)  # [batch, head, beam, size]
        products = tf.matmul(query, key, transpose_b=transpose_key)
        mixed = tf.matmul(_softmax(products, bias), value)
        if rows is not None:
            mixed = tf.gather(tf.reshape(mixed, [-1, size]), rows.answers)  # [place, head, size]
        return self.output_projection(tf.reshape(mixed, [-1, self.width]), residual)


class SelfAttention(Attention):
    """Queries, keys and values from one input through one fused projection."""

    def __init__(self, width: int, heads: int, **kwargs: object) -> None:
        super().__init__(width, heads, **kwargs)
        with keras.name_scope(self.name):
            scale = np.repeat(np.array([self.head_scale, 1.0, 1.0], np.float32), width)
            self.qkv_projection = Linear(width, 3 * width, is_kept=True, output_scale=scale, name="qkv")

    def project(self, x: tf.Tensor) -> list[tf.Tensor]:
        """[B, Q, width] -> query, key, value, each [B, H, Q, Dh]."""
        return self.split(self.qkv_projection(x), 3)

    def call(self, x: tf.Tensor, bias: tf.Tensor, residual: tf.Tensor | None = None) -> tf.Tensor:
        """[B, Q, width] -> [B, Q, width]."""
        query, key, value = self.project(x)
        return self.attend(query, key, value, bias, residual)


class CrossAttention(Attention):
    """Queries from the decoder; keys and values from the encoder's output, projected once for a whole decode."""

    def __init__(self, width: int, heads: int, **kwargs: object) -> None:
        super().__init__(width, heads, **kwargs)
        with keras.name_scope(self.name):
            scale = np.full(width, self.head_scale, np.float32)
            self.query_projection = Linear(width, width, is_kept=True, output_scale=scale, name="query")
            self.key_value_projection = Linear(width, 2 * width, is_kept=True, name="key_value")

    def project_memory(self, memory: tf.Tensor) -> list[tf.Tensor]:
        """[B, M, width] -> key, value, each [B, H, M, Dh]."""
        return self.split(self.key_value_projection(memory), 2)

    def project_query(self, x: tf.Tensor) -> tf.Tensor:
        """[B, Q, width] -> [B, H, Q, Dh]."""
        return split_heads(self.query_projection(x), self.heads, tf.shape(x)[1])

    def read_rows(
        self,
        x: tf.Tensor,
        key: tf.Tensor,
        value: tf.Tensor,
        bias: tf.Tensor,
        rows: HeadRows | None,
        residual: tf.Tensor | None,
    ) -> tf.Tensor:
        """``call`` as ``attend_rows`` does, [N, width] -> [N, width], with ``key`` [B, H, Dh, M]."""
        return self.attend_rows(self.query_projection(x), key, value, bias, rows, residual)

    def call(
        self, x: tf.Tensor, key: tf.Tensor, value: tf.Tensor, bias: tf.Tensor, residual: tf.Tensor | None = None
    ) -> tf.Tensor:
        """``x`` [B, Q, width], ``key`` and ``value`` of ``project_memory`` -> [B, Q, width]."""
        return self.attend(self.project_query(x), key, value, bias, residual)
