"""The learning rate as a function of the step."""

from __future__ import annotations

import keras
import tensorflow as tf

from model_export.config import OptimizerConfig


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """What ``OptimizerConfig`` describes, over a run of ``total_steps``.

    With ``n`` the number of the step, from 1, ``p`` the peak and ``w`` the warm-up (1 if it is 0):
    ``p * n / w`` up to ``w``, then ``p * sqrt(w / n)``; times ``min(1, (total - n + 1) / (total *
    decay_fraction))``. ``constant`` stays at ``p`` after the warm-up.
    """

    def __init__(self, config: OptimizerConfig, total_steps: int) -> None:
        self.config = config
        self.total_steps = total_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of the step after ``step`` finished ones."""
        config = self.config
        number = tf.cast(step, tf.float32) + 1.0
        warmup = float(max(config.warmup_steps, 1))
        rate = config.learning_rate * tf.minimum(number / warmup, 1.0)
        if config.schedule == "constant":
            return rate
        rate *= tf.sqrt(warmup / tf.maximum(number, warmup))
        decay_steps = max(self.total_steps * config.decay_fraction, 1.0)
        return rate * tf.clip_by_value((self.total_steps - number + 1.0) / decay_steps, 0.0, 1.0)

    def get_config(self) -> dict[str, object]:
        """What Keras asks of every schedule."""
        return {"config": self.config.model_dump(), "total_steps": self.total_steps}
