"""A model as Keras ``fit`` trains and ``evaluate`` judges it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import keras
import tensorflow as tf

from model_export.config import TrainingConfig
from model_export.models import ModelInputs, Seq2SeqModel
from model_export.training.losses import TokenLosses, masked_mean, token_losses
from model_export.training.schedules import WarmupSchedule

Batch = tuple[ModelInputs, tf.Tensor]
"""Model inputs, and labels int32 [B, T] padded with 0."""


class TrainingModel(keras.Model):
    """Wraps a ``Seq2SeqModel`` with its objective.

    Reported are means over all tokens of an epoch (not over its batches), padding left out: ``loss``, -log p(label) in
    nats without label smoothing, and ``accuracy``, the share of labels that are the most probable token.
    """

    def __init__(self, model: Seq2SeqModel, config: TrainingConfig) -> None:
        super().__init__(name="training")
        self.model = model
        self.label_smoothing = config.label_smoothing
        self.loss_mean = keras.metrics.Mean(name="loss")
        self.accuracy_mean = keras.metrics.Mean(name="accuracy")

    def call(self, inputs: ModelInputs, training: bool = False) -> tf.Tensor:
        """See ``Seq2SeqModel.call``."""
        return self.model(inputs, training=training)

    def train_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """One update on one batch."""
        inputs, labels = data
        with tf.GradientTape() as tape:
            logits = self.model(inputs, training=True)
            losses = token_losses(logits, labels, self.label_smoothing)
            objective = masked_mean(losses.smoothed, losses.weights)
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(objective, variables), variables)
        return self._report(losses)

    def test_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """Judge one batch."""
        inputs, labels = data
        return self._report(token_losses(self.model(inputs), labels, self.label_smoothing))

    def _report(self, losses: TokenLosses) -> dict[str, tf.Tensor]:
        # Flat, because Keras averages over the positions of a row first, by the padded length of its batch.
        plain, correct, weights = (tf.reshape(x, [-1]) for x in (losses.plain, losses.correct, losses.weights))
        self.loss_mean.update_state(plain, weights)
        self.accuracy_mean.update_state(correct, weights)
        return {metric.name: metric.result() for metric in (self.loss_mean, self.accuracy_mean)}


def compile_for_training(model: Seq2SeqModel, config: TrainingConfig, total_steps: int) -> TrainingModel:
    """The model with its optimizer, every variable of both created."""
    wrapped = TrainingModel(model, config)
    optimizer = config.optimizer
    wrapped.compile(
        optimizer=keras.optimizers.Adam(
            learning_rate=WarmupSchedule(optimizer, total_steps),
            beta_1=optimizer.beta_1,
            beta_2=optimizer.beta_2,
            epsilon=optimizer.epsilon,
            global_clipnorm=optimizer.clip_norm,
        )
    )
    wrapped.optimizer.build(model.trainable_variables)
    return wrapped


@contextmanager
def matrix_precision(precision: Literal["float32", "bfloat16"]) -> Iterator[None]:
    """While entered, graphs that are run have their matrix products in ``precision``.

    Left to TensorFlow's graph optimizer, which knows what the CPU has kernels for, instead of Keras's dtype policies:
    models keep their float32 variables and need to know nothing of it.
    """
    option = "auto_mixed_precision_onednn_bfloat16"
    before = tf.config.optimizer.get_experimental_options().get(option, False)
    tf.config.optimizer.set_experimental_options({option: precision == "bfloat16"})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({option: before})
