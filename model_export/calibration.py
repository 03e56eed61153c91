"""Calibration of static int8 scales: what the linear layers read while the float32 model reads some of its data.

One pass over text pairs, targets teacher-forced, so that the layers of a decode step read what they will read then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import tensorflow as tf

from model_export.config import DataConfig, UserError
from model_export.contract import Calibration, sha256
from model_export.models.precision import InputRange
from model_export.text.data import EncodedPairs, encode_pairs, make_dataset, plan_batches
from model_export.text.pairs import TextPairs, read_pairs
from model_export.text.progress import OnProgress, silent
from model_export.text.tokenizers import SentencePieceTokenizer
from model_export.trained_model import TrainedModel

STAGE: Final = "measuring static scales"
"""What ``calibrate`` tells its ``on_progress``, with the batches that were read."""
MOST_PAIRS: Final = 1024
"""More move no range by much, and each takes time."""
_BATCH_TOKENS = 1024


class CalibrationError(UserError):
    """Pairs by which a model cannot be calibrated."""


@dataclass(frozen=True, slots=True)
class StaticScales:
    """What ``calibrate`` found, and by what."""

    ranges: Mapping[str, InputRange]  # by ``Linear.key``
    source: Calibration


def calibrate(
    trained: TrainedModel, file: Path, on_progress: OnProgress = silent, most_pairs: int = MOST_PAIRS
) -> StaticScales:
    """The range of inputs of every linear layer of ``trained``, whose model is to be packed anew afterwards.

    Args:
        trained: the model that is to be exported.
        file: tab-separated pairs, as for training; ``most_pairs`` of them are read, evenly from first to last.
        on_progress: called after each batch.
        most_pairs: 1 or more.

    Raises:
        DataError: the file cannot be read, or all of its pairs are too long for the model.
        CalibrationError: a layer reads no finite number.
    """
    pairs = _spread(read_pairs([f"{file}"], on_progress=on_progress), most_pairs)
    tokenizer = SentencePieceTokenizer(trained.tokenizer)
    encoded = encode_pairs(pairs, tokenizer, trained.config.limits, DataConfig(), "calibration")
    ranges = _ranges(trained, encoded, on_progress)
    for key, seen in ranges.items():
        if not np.isfinite(seen).all():
            raise CalibrationError(
                f"{key} reads numbers from {seen.low} to {seen.high}: the model's weights are broken"
            )
    return StaticScales(ranges, Calibration(file.name, sha256(file.read_bytes()), len(encoded.rows)))


def _spread(pairs: TextPairs, count: int) -> TextPairs:
    """At most ``count``, evenly from first to last."""
    chosen = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)
    return TextPairs([pairs.sources[row] for row in chosen], [pairs.targets[row] for row in chosen])


def _ranges(trained: TrainedModel, pairs: EncodedPairs, on_progress: OnProgress) -> dict[str, InputRange]:
    observers = trained.model.observe()
    read = tf.function(trained.model, autograph=False, reduce_retracing=True)
    batches = plan_batches(pairs, _BATCH_TOKENS, None)
    for done, (inputs, _) in enumerate(make_dataset(pairs, batches)):
        on_progress(STAGE, done, len(batches))
        read(inputs)
    return {key: observer.seen for key, observer in observers.items()}
