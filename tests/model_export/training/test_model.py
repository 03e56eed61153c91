"""One training step: what it minimises, and in which precision."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from model_export.models import build_model
from model_export.training.losses import masked_mean, token_losses
from model_export.training.model import TrainingModel, compile_for_training, matrix_precision
from tests.support.tiny_training import tiny_config

LABELS = tf.constant([[5, 6, 3], [8, 3, 0]])
INPUTS = {
    "source_ids": tf.constant([[5, 6, 7, 3], [8, 9, 3, 0]]),
    "source_lengths": tf.constant([4, 3]),
    "target_ids": tf.constant([[2, 5, 6], [2, 8, 0]]),
}


PLAIN_GRADIENT = {
    "schedule": "constant",
    "learning_rate": 1e6,
    "warmup_steps": 0,
    "beta_2": 0.0,
    "epsilon": 1e6,
    "clip_norm": None,
}
"""With so large an epsilon Adam's first step is the gradient itself: 1e6 * g / (abs(g) + 1e6)."""


def fresh(dropout: float = 0.0, **training: object) -> TrainingModel:
    config = tiny_config(**{"optimizer": PLAIN_GRADIENT, **training})
    keras.utils.set_random_seed(1)
    model = build_model(config.model.model_copy(update={"dropout": dropout}), config.limits)
    return compile_for_training(model, config.training, 100)


def test_what_is_reported_is_the_loss_before_the_step_without_smoothing() -> None:
    training = fresh(label_smoothing=0.2)
    losses = token_losses(training.model(INPUTS), LABELS, 0.0)

    logs = training.train_step((INPUTS, LABELS))

    assert float(logs["loss"]) == pytest.approx(float(masked_mean(losses.plain, losses.weights)), rel=1e-5)
    assert float(logs["accuracy"]) == pytest.approx(float(masked_mean(losses.correct, losses.weights)))


def test_padding_has_no_part_in_the_step() -> None:
    plain, padded = fresh(), fresh()
    wider = {
        "source_ids": tf.pad(INPUTS["source_ids"], [[0, 0], [0, 3]], constant_values=9),
        "source_lengths": INPUTS["source_lengths"],
        "target_ids": tf.pad(INPUTS["target_ids"], [[0, 0], [0, 2]]),
    }

    plain.train_step((INPUTS, LABELS))
    padded.train_step((wider, tf.pad(LABELS, [[0, 0], [0, 2]])))

    assert float(plain.loss_mean.result()) == pytest.approx(float(padded.loss_mean.result()), rel=1e-5)
    for weight, other in zip(plain.model.weights, padded.model.weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), other.numpy(), atol=1e-5)


@pytest.mark.parametrize("clip_norm", [0.25, None])
def test_the_gradient_is_clipped_by_its_global_norm(clip_norm: float | None) -> None:
    training = fresh(optimizer={**PLAIN_GRADIENT, "clip_norm": clip_norm})
    before = [weight.numpy() for weight in training.model.weights]

    training.train_step((INPUTS, LABELS))

    steps = [weight.numpy() - old for weight, old in zip(training.model.weights, before, strict=True)]
    norm = np.sqrt(sum(np.square(step).sum() for step in steps))
    if clip_norm is None:
        assert norm > 0.5
    else:
        assert norm == pytest.approx(clip_norm, rel=1e-2)


def test_bfloat16_lasts_as_long_as_it_is_asked_for() -> None:
    left, right = (tf.random.stateless_normal([64, 512], [seed, 1]) for seed in (1, 2))

    @tf.function
    def product() -> tf.Tensor:
        return tf.matmul(tf.tanh(left), tf.tanh(right), transpose_b=True) + 1.0

    exact = product().numpy()
    with matrix_precision("bfloat16"):
        rounded = product().numpy()
    with matrix_precision("float32"):
        again = product().numpy()

    np.testing.assert_array_equal(exact, again)
    np.testing.assert_array_equal(exact, product().numpy())
    np.testing.assert_allclose(rounded, exact, atol=1.0)
    assert tf.config.optimizer.get_experimental_options()["auto_mixed_precision_onednn_bfloat16"] is False
