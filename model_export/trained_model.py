"""A trained model's folder: what training leaves behind and exporting starts from.

``config.yaml`` (the full run configuration), ``tokenizer.model``, ``weights.safetensors`` (keyed by variable path),
``samples.txt`` (real source sentences, one a line), ``report.json`` (data, steps, metrics).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from model_export.config import CONFIG_FILE, RunConfig, UserError, load_config
from model_export.models import Seq2SeqModel, build_model

TOKENIZER_FILE = "tokenizer.model"
WEIGHTS_FILE = "weights.safetensors"
SAMPLES_FILE = "samples.txt"
REPORT_FILE = "report.json"

StorageDtype = Literal["float32", "float16"]


class TrainedModelError(UserError):
    """A folder that is no trained model, or weights that do not fit the configuration."""


@dataclass
class TrainedModel:
    """A model with its weights and everything that is known of it."""

    config: RunConfig
    tokenizer: bytes
    model: Seq2SeqModel
    samples: list[str] = field(default_factory=list)
    """Real source sentences, the longest among them."""
    report: dict[str, Any] = field(default_factory=dict)


def save_trained_model(path: Path, trained: TrainedModel, dtype: StorageDtype = "float32") -> None:
    """Write the folder; files of an earlier model are replaced. The report comes last, and whole: it ends a run."""
    path.mkdir(parents=True, exist_ok=True)
    (path / CONFIG_FILE).write_text(trained.config.to_yaml(), encoding="utf-8")
    (path / TOKENIZER_FILE).write_bytes(trained.tokenizer)
    save_weights(path / WEIGHTS_FILE, trained.model, dtype)
    (path / SAMPLES_FILE).write_text("".join(f"{line}\n" for line in trained.samples), encoding="utf-8")
    report = json.dumps(trained.report, ensure_ascii=False, indent=1)
    _write_whole(path / REPORT_FILE, (report + "\n").encode("utf-8"))


def load_trained_model(path: Path) -> TrainedModel:
    """Read the folder and build the model, weights in float32.

    Raises:
        TrainedModelError: a file is missing, or the weights do not fit the configuration.
        ConfigError: the configuration is not valid.
    """
    for name in (CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, SAMPLES_FILE, REPORT_FILE):
        if not (path / name).is_file():
            raise TrainedModelError(f"{path} is no trained model: {name} is missing")
    config = load_config(str(path / CONFIG_FILE))
    model = build_model(config.model, config.limits)
    load_weights(path / WEIGHTS_FILE, model)
    return TrainedModel(
        config=config,
        tokenizer=(path / TOKENIZER_FILE).read_bytes(),
        model=model,
        samples=(path / SAMPLES_FILE).read_bytes().decode("utf-8").split("\n")[:-1],
        report=json.loads((path / REPORT_FILE).read_text(encoding="utf-8")),
    )


def save_weights(path: Path, model: keras.Model, dtype: StorageDtype = "float32") -> None:
    """Every weight in ``dtype``, keyed by its variable path. The file appears whole or not at all."""
    arrays = {weight.path: weight.numpy().astype(dtype) for weight in model.weights}
    if len(arrays) != len(model.weights):
        raise RuntimeError(f"{model.name}: two weights share one path")
    _write_whole(path, save(arrays))


def _write_whole(path: Path, data: bytes) -> None:
    """All of it or nothing, whenever the process is killed."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The arrays of a file by variable path, in float32.

    Raises:
        TrainedModelError: not a safetensors file.
    """
    try:
        return {name: array.astype(np.float32) for name, array in load_file(path).items()}
    except SafetensorError as error:
        raise TrainedModelError(f"{path}: not a safetensors file: {error}") from error


def load_weights(path: Path, model: keras.Model) -> None:
    """Set every weight of ``model`` from the file.

    Raises:
        TrainedModelError: a weight is missing, left over or of another shape.
    """
    arrays = read_weights(path)
    wanted = {weight.path: tuple(weight.shape) for weight in model.weights}
    found = {name: array.shape for name, array in arrays.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise TrainedModelError(
                f"{path} does not fit its configuration: {name} has shape {found.get(name)}, not {wanted.get(name)}"
            )
    for weight in model.weights:
        weight.assign(arrays[weight.path])


def round_weights(model: keras.Model, dtype: StorageDtype) -> None:
    """Give the weights the values that they have once stored in ``dtype``."""
    for weight in model.weights:
        weight.assign(weight.numpy().astype(dtype).astype(np.float32))
