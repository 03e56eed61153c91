"""The whole state of a run in one file, so that a resumed run computes what an uninterrupted one would have."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from model_export.config import UserError
from model_export.training.model import TrainingModel


class TrainingError(UserError):
    """A run that cannot be started or resumed as asked."""


@dataclass
class Progress:
    """How far a run is. The order of the data is a function of (seed, epoch), so this is its position too."""

    data_sha256: str
    """Of all pairs, so that a run is not resumed on other data."""
    epoch: int = 0
    """Finished epochs."""
    batch: int = 0
    """Finished batches of the epoch that is under way."""
    seconds: float = 0.0
    """Time spent in training steps."""
    target_tokens: int = 0
    """Labels trained on, padding left out."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry for each finished epoch."""


def save_checkpoint(path: Path, training: TrainingModel, progress: Progress) -> None:
    """Weights, states of the dropout generators, optimizer, running means and progress; whole or not at all."""
    arrays = {str(number): np.asarray(variable.numpy()) for number, variable in enumerate(_variables(training))}
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(save(arrays, metadata={"progress": json.dumps(asdict(progress))}))
    partial.replace(path)


def load_checkpoint(path: Path, training: TrainingModel) -> Progress:
    """Set every variable of ``training`` and return the progress.

    Raises:
        TrainingError: the file is not a checkpoint of this model.
    """
    variables = _variables(training)
    try:
        with safe_open(path, "numpy") as file:
            arrays = [file.get_tensor(str(number)) for number in range(len(file.keys()))]
            progress = Progress(**json.loads(file.metadata()["progress"]))
    except (OSError, SafetensorError, KeyError) as error:
        raise TrainingError(f"{path} is no checkpoint of this run: {error}") from error
    if len(arrays) != len(variables) or any(a.shape != tuple(v.shape) for a, v in zip(arrays, variables, strict=True)):
        raise TrainingError(f"{path} is the checkpoint of another model")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return progress


def _variables(training: TrainingModel) -> list[keras.Variable]:
    """All state, in the order of creation: that of dropout generators bears no stable name."""
    return [*training.variables, *training.metrics_variables, *training.optimizer.variables]
