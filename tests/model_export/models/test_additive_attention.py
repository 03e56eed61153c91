"""Additive attention: the formula, worked out row by row."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from model_export.models.additive_attention import AdditiveAttention


def test_each_beam_reads_its_own_row_by_its_own_weights() -> None:
    attention = AdditiveAttention(4, name="attention")
    generator = np.random.default_rng(2)
    for weight in attention.weights:
        weight.assign(generator.normal(size=weight.shape))
    values = generator.normal(size=[2, 3, 4]).astype(np.float32)
    queries = generator.normal(size=[2, 2, 4]).astype(np.float32)  # [batch, beam, units]
    lengths = [3, 2]
    memory = attention.memory(tf.constant(values), tf.constant(lengths))
    read, weights = attention(tf.reshape(queries, [4, 4]), memory)
    assert (read.shape, weights.shape) == ((4, 4), (2, 2, 3))
    for row, length in enumerate(lengths):
        keys = attention.key_projection(values[row, :length]).numpy()
        for beam in range(2):
            mixed = np.tanh(attention.query_projection(queries[row, beam : beam + 1]).numpy() + keys)
            scores = mixed @ attention.score_kernel.numpy()[:, 0]
            expected = np.exp(scores) / np.exp(scores).sum()
            np.testing.assert_allclose(weights[row, beam, :length], expected, atol=1e-5)
            np.testing.assert_allclose(weights[row, beam, length:], 0.0, atol=1e-6)
            np.testing.assert_allclose(read[2 * row + beam], expected @ values[row, :length], atol=1e-5)
