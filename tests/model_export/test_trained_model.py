"""A trained model's folder: the round trip, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model_export.models import build_model
from model_export.trained_model import (
    TrainedModel,
    TrainedModelError,
    load_trained_model,
    load_weights,
    round_weights,
    save_trained_model,
    save_weights,
)
from tests.support.tiny_training import tiny_config


@pytest.fixture
def trained() -> TrainedModel:
    config = tiny_config()
    model = build_model(config.model, config.limits)
    return TrainedModel(config, b"tokenizer bytes", model, ["Bonjour à tous", "가"], {"steps": 3, "note": "é"})


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_round_trip(tmp_path: Path, trained: TrainedModel, dtype: str) -> None:
    save_trained_model(tmp_path / "model", trained, dtype)
    loaded = load_trained_model(tmp_path / "model")

    assert (loaded.config, loaded.tokenizer) == (trained.config, trained.tokenizer)
    assert (loaded.samples, loaded.report) == (trained.samples, trained.report)
    for weight, other in zip(loaded.model.weights, trained.model.weights, strict=True):
        assert weight.path == other.path
        np.testing.assert_array_equal(weight.numpy(), other.numpy().astype(dtype).astype(np.float32))


def test_weights_are_keyed_by_path_in_the_dtype_asked_for(tmp_path: Path, trained: TrainedModel) -> None:
    save_weights(tmp_path / "weights.safetensors", trained.model, "float16")
    arrays = load_file(tmp_path / "weights.safetensors")

    assert set(arrays) == {weight.path for weight in trained.model.weights}
    assert {array.dtype for array in arrays.values()} == {np.dtype("float16")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.safetensors"]


def test_rounding_gives_what_storing_would(tmp_path: Path, trained: TrainedModel) -> None:
    save_weights(tmp_path / "weights.safetensors", trained.model, "float16")
    round_weights(trained.model, "float16")
    rounded = [weight.numpy() for weight in trained.model.weights]
    load_weights(tmp_path / "weights.safetensors", trained.model)

    for before, weight in zip(rounded, trained.model.weights, strict=True):
        np.testing.assert_array_equal(before, weight.numpy())


def test_no_samples(tmp_path: Path, trained: TrainedModel) -> None:
    trained.samples = []
    save_trained_model(tmp_path / "model", trained)

    assert load_trained_model(tmp_path / "model").samples == []


@pytest.mark.parametrize(
    "name", ["config.yaml", "tokenizer.model", "weights.safetensors", "samples.txt", "report.json"]
)
def test_a_missing_file_is_named(tmp_path: Path, trained: TrainedModel, name: str) -> None:
    save_trained_model(tmp_path / "model", trained)
    (tmp_path / "model" / name).unlink()

    with pytest.raises(TrainedModelError, match=f"{name} is missing"):
        load_trained_model(tmp_path / "model")


def test_weights_of_another_configuration(tmp_path: Path, trained: TrainedModel) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, trained.model)
    arrays = load_file(path)
    name = sorted(arrays)[0]

    for changed in ({**arrays, name: arrays[name][:1]}, {**arrays, "extra": arrays[name]}):
        save_file(changed, path)
        with pytest.raises(TrainedModelError, match="does not fit its configuration"):
            load_weights(path, trained.model)
    save_file({key: value for key, value in arrays.items() if key != name}, path)
    with pytest.raises(TrainedModelError, match=name):
        load_weights(path, trained.model)


def test_a_file_that_holds_no_weights(tmp_path: Path, trained: TrainedModel) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"nothing of the kind")

    with pytest.raises(TrainedModelError, match="not a safetensors file"):
        load_weights(tmp_path / "weights.safetensors", trained.model)
