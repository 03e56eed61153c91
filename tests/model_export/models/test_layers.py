"""Packed kernels: the same products from another layout."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from model_export.contract import Dtype
from model_export.models.layers import Linear, StreamNorm, TokenEmbedding


def random_linear(in_size: int, out_size: int, tied: bool) -> Linear:
    keras.utils.set_random_seed(3)
    linear = Linear(in_size, out_size, TokenEmbedding(out_size, in_size) if tied else None)
    linear.bias.assign(np.random.default_rng(1).normal(size=out_size))
    return linear


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("out_size", [1, 47, 48, 49, 200])
@pytest.mark.parametrize("rows", [(1,), (5, 1), (2, 3, 7), (0,)])
def test_a_packed_layer_computes_what_it_did(rows: tuple[int, ...], out_size: int, tied: bool) -> None:
    linear = random_linear(16, out_size, tied)
    x = np.random.default_rng(2).normal(size=(*rows, 16)).astype(np.float32)
    expected = x @ linear.kernel.numpy().T + linear.bias.numpy()
    np.testing.assert_allclose(linear(tf.constant(x)), expected, atol=1e-5)
    linear.pack()
    np.testing.assert_allclose(linear(tf.constant(x)), expected, atol=1e-5)


def test_packing_again_follows_a_changed_kernel() -> None:
    linear = random_linear(16, 50, tied=False)
    x = tf.ones([1, 16])
    linear.pack()
    before = linear(x)
    linear.kernel.assign(2 * linear.kernel)
    np.testing.assert_array_equal(linear(x), before)
    linear.pack()
    np.testing.assert_allclose(linear(x) - linear.bias, 2 * (before - linear.bias), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("scale", [1.0, 1e-3])  # of the second, epsilon is as much as the variance
def test_a_packed_stream_gives_its_readers_what_they_had(scale: float, dtype: Dtype) -> None:
    generator = np.random.default_rng(5)
    norm, embedding = StreamNorm(16), TokenEmbedding(3, 16, scale=4.0)
    writer, reader = random_linear(7, 16, tied=False), random_linear(16, 50, tied=False)
    for weights, deviation in ((norm.weights, 1.0), (writer.weights, scale), (embedding.weights, scale)):
        for weight in weights:
            weight.assign(generator.normal(size=weight.shape) * deviation)
    embedding.begins_stream(norm)
    writer.writes_stream(norm)
    reader.reads_stream(norm)
    positions, added = (generator.normal(size=(3, size)).astype(np.float32) for size in (16, 7))

    def read(positions: NDArray[np.float32]) -> tf.Tensor:
        x = embedding(tf.range(3)) + positions
        return tf.concat([reader(norm(x)), reader(norm(writer(tf.constant(added), x)))], axis=0)

    expected = read(positions * scale)
    norm.pack(dtype)
    for layer in (embedding, writer, reader):
        layer.pack()
    np.testing.assert_allclose(read(norm.written(positions * scale, is_first=True)), expected, atol=2e-4)
