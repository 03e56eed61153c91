"""Which epochs are averaged, and the mean itself."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from model_export.config import TrainingConfig
from model_export.trained_model import save_weights
from model_export.training.averaging import average_weights, chosen_epochs

HISTORY = [
    {"loss": 3.0, "bleu": 10.0},
    {"loss": 1.0, "bleu": 20.0},
    {"loss": 2.0, "bleu": 40.0},
    {"loss": 2.5, "bleu": 30.0},
]


@pytest.mark.parametrize(
    ("config", "epochs"),
    [
        ({"average_epochs": 1}, [4]),
        ({"average_epochs": 3}, [2, 3, 4]),
        ({"average_epochs": 9}, [1, 2, 3, 4]),
        ({"average_epochs": 1, "average": "best"}, [2]),
        ({"average_epochs": 2, "average": "best"}, [2, 3]),
        ({"average_epochs": 2, "average": "best", "monitor": "bleu"}, [3, 4]),
    ],
)
def test_the_epochs_to_average(config: dict[str, object], epochs: list[int]) -> None:
    assert chosen_epochs(HISTORY, TrainingConfig.model_validate(config)) == epochs


def test_the_mean_of_weights(tmp_path: Path) -> None:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, name="dense")])
    files = []
    for number, kernel in enumerate(([[1.0], [2.0]], [[3.0], [6.0]], [[5.0], [1.0]])):
        model.set_weights([np.array(kernel), np.array([float(number)])])
        files.append(tmp_path / f"{number}.safetensors")
        save_weights(files[-1], model)

    average_weights(files, model)

    np.testing.assert_allclose(model.get_weights()[0], [[3.0], [3.0]])
    np.testing.assert_allclose(model.get_weights()[1], [1.0])
