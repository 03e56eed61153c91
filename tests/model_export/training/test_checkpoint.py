"""A checkpoint holds everything, and refuses what it does not fit."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from model_export.config import ModelConfig, RnnConfig
from model_export.models import build_model
from model_export.training.checkpoint import Progress, TrainingError, load_checkpoint, save_checkpoint
from model_export.training.model import TrainingModel, compile_for_training
from tests.support.tiny_training import tiny_config

RNN = RnnConfig(
    architecture="rnn", attention="additive", vocabulary_size=300, embedding_size=16, hidden_size=16, num_layers=2
)


def fresh(seed: int, model: ModelConfig | None = None, **changes: int) -> TrainingModel:
    config = tiny_config()
    keras.utils.set_random_seed(seed)
    built = build_model((model or config.model).model_copy(update=changes), config.limits)
    return compile_for_training(built, config.training, 100)


def step(training: TrainingModel) -> float:
    ids = tf.constant([[5, 6, 7, 3], [8, 9, 3, 0]])
    inputs = {"source_ids": ids, "source_lengths": tf.constant([4, 3]), "target_ids": ids}
    return float(training.train_step((inputs, ids))["loss"])


@pytest.mark.parametrize("model", [tiny_config().model, RNN], ids=["transformer", "rnn"])
def test_steps_after_loading_are_the_steps_after_saving(tmp_path: Path, model: ModelConfig) -> None:
    """Dropout, Adam's moments, the learning rate and the running means all go on."""
    training, other = fresh(1, model), fresh(2, model)
    for _ in range(3):
        step(training)
    progress = Progress(data_sha256="0", epoch=2, batch=7, seconds=1.5, target_tokens=9, history=[{"loss": 1.0}])
    save_checkpoint(tmp_path / "checkpoint", training, progress)

    assert load_checkpoint(tmp_path / "checkpoint", other) == progress
    assert [step(other) for _ in range(3)] == [step(training) for _ in range(3)]
    for variable, expected in zip(other.model.weights, training.model.weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), expected.numpy())


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"num_encoder_layers": 2}, {"num_decoder_layers": 2}])
def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    save_checkpoint(tmp_path / "checkpoint", fresh(1), Progress(data_sha256="0"))

    with pytest.raises(TrainingError, match="checkpoint"):
        load_checkpoint(tmp_path / "checkpoint", fresh(1, **change))


def test_a_larger_checkpoint_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", fresh(1, num_encoder_layers=2), Progress(data_sha256="0"))

    with pytest.raises(TrainingError, match="checkpoint"):
        load_checkpoint(tmp_path / "checkpoint", fresh(1))


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"half a checkpoint")

    with pytest.raises(TrainingError, match="no checkpoint of this run"):
        load_checkpoint(tmp_path / "checkpoint", fresh(1))
