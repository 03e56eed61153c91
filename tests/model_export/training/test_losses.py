"""Losses against numbers worked out by hand."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import tensorflow as tf

from model_export.training.losses import masked_mean, token_losses

# Two rows, two positions, three words. softmax(log p) is p, so these logits are the log-probabilities themselves.
PROBABILITIES = np.array([[[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], [[0.125, 0.125, 0.75], [0.5, 0.25, 0.25]]])
LABELS = [[1, 2], [1, 0]]  # the last position is padding


def losses(label_smoothing: float):
    logits = tf.constant(np.log(PROBABILITIES) + 3.0, tf.float32)  # a constant shift changes no softmax
    return token_losses(logits, tf.constant(LABELS), label_smoothing)


def test_cross_entropy_of_the_labels() -> None:
    found = losses(0.0)

    expected = [-log(0.25), -log(0.5), -log(0.125)]
    np.testing.assert_allclose(found.plain.numpy().ravel()[:3], expected, rtol=1e-6)
    np.testing.assert_allclose(found.smoothed.numpy().ravel()[:3], expected, rtol=1e-6)


def test_label_smoothing_is_spread_over_the_whole_vocabulary() -> None:
    found = losses(0.3)

    # q = 0.7 * one_hot + 0.1: for the first position -(0.1 log 0.5 + 0.8 log 0.25 + 0.1 log 0.25)
    expected = [
        -(0.1 * log(0.5) + 0.8 * log(0.25) + 0.1 * log(0.25)),
        -(0.1 * log(0.25) + 0.1 * log(0.25) + 0.8 * log(0.5)),
        -(0.1 * log(0.125) + 0.8 * log(0.125) + 0.1 * log(0.75)),
    ]
    np.testing.assert_allclose(found.smoothed.numpy().ravel()[:3], expected, rtol=1e-6)


def test_the_reported_loss_is_free_of_smoothing() -> None:
    np.testing.assert_allclose(losses(0.3).plain, losses(0.0).plain, rtol=1e-5)


def test_padding_weighs_nothing() -> None:
    found = losses(0.0)

    assert found.weights.numpy().tolist() == [[1, 1], [1, 0]]
    mean = masked_mean(found.plain, found.weights)
    assert mean.numpy() == pytest.approx((-log(0.25) - log(0.5) - log(0.125)) / 3)


def test_a_position_is_correct_when_its_label_is_the_most_probable() -> None:
    assert losses(0.1).correct.numpy().tolist() == [[0, 1], [0, 1]]  # the last is padding, with weight 0


def test_the_gradient_is_softmax_minus_the_smoothed_label_and_none_from_padding() -> None:
    logits = tf.Variable(np.log(PROBABILITIES), dtype=tf.float32)
    with tf.GradientTape() as tape:
        found = token_losses(logits, tf.constant(LABELS), 0.3)
        objective = masked_mean(found.smoothed, found.weights)
    gradient = tape.gradient(objective, logits).numpy()

    np.testing.assert_allclose(gradient[0, 0], (np.array([0.5, 0.25, 0.25]) - [0.1, 0.8, 0.1]) / 3, atol=1e-6)
    np.testing.assert_array_equal(gradient[1, 1], [0, 0, 0])
