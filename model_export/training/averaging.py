"""The mean of several epochs' weights (Vaswani et al. 2017, section 6.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from model_export.config import TrainingConfig
from model_export.trained_model import read_weights

HIGHER_IS_BETTER = {"loss": False, "accuracy": True, "bleu": True, "chrf": True}
"""The metrics that ``TrainingConfig.monitor`` names."""


def chosen_epochs(history: Sequence[dict[str, float]], config: TrainingConfig) -> list[int]:
    """Numbers (from 1) of the finished epochs whose weights would be averaged now, in order."""
    epochs = list(range(1, len(history) + 1))
    if config.average == "best":
        sign = 1.0 if HIGHER_IS_BETTER[config.monitor] else -1.0
        epochs.sort(key=lambda epoch: sign * history[epoch - 1][config.monitor])
    return sorted(epochs[-config.average_epochs :])


def average_weights(files: Sequence[Path], model: keras.Model) -> None:
    """Set the weights of ``model`` to the mean of those in ``files``."""
    totals = {weight.path: np.zeros(weight.shape, np.float64) for weight in model.weights}
    for file in files:
        for name, array in read_weights(file).items():
            totals[name] += array
    for weight in model.weights:
        weight.assign((totals[weight.path] / len(files)).astype(np.float32))
