"""The best tokens as ``top_k`` of masked logits finds them, whatever the size of the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from model_export.decoding.candidates import best_tokens, forbidding, log_normalizer

SIZES = [5, 64, 127, 128, 1024, 2000, 8191]
"""Smaller than a group, one group, prime, many groups."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 4])
def test_they_are_those_of_masked_logits(size: int, count: int) -> None:
    generator = np.random.default_rng(size)
    logits = generator.integers(-3, 4, (2, 3, size)).astype(np.float32)  # many are equal
    logits[..., 0] = 9.0
    forbidden = (0, size // 2, size - 1)
    logits[0, :, size // 2] = 10.0
    logits[1, 1, :] = -np.inf  # no token may come
    expected = tf.math.top_k(logits + forbidding(size, *forbidden), min(count, size - 3))
    for amount in (min(count, size - 3), tf.constant(min(count, size - 3))):
        values, ids = best_tokens(tf.constant(logits), amount, forbidden)
        np.testing.assert_array_equal(values, expected.values)
        possible = np.isfinite(expected.values)
        np.testing.assert_array_equal(np.array(ids)[possible], np.array(expected.indices)[possible])


def test_forbidden_tokens_do_not_hide_the_groups_of_others() -> None:
    logits = np.linspace(0.0, 1.0, 1024, dtype=np.float32)[None]
    forbidden = tuple(range(0, 1024, 64))  # one in each group
    logits[0, list(forbidden)] += 5.0
    _, ids = best_tokens(tf.constant(logits), 3, forbidden)
    np.testing.assert_array_equal(ids, [[1023, 1022, 1021]])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_the_normalizer_is_the_log_sum_exp(scale: float) -> None:
    logits = np.random.default_rng(1).normal(0.0, scale, (4, 2, 2000)).astype(np.float32)
    expected = np.logaddexp.reduce(logits.astype(np.float64), axis=-1)
    np.testing.assert_allclose(log_normalizer(tf.constant(logits)), expected, rtol=1e-6, atol=1e-6)
