"""Calibration reads a bounded number of pairs and notes what every linear layer read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_export.calibration import STAGE, CalibrationError, calibrate
from model_export.contract import sha256
from model_export.models.precision import Precision
from model_export.text.pairs import DataError
from tests.support.tiny_models import CORPUS, RNN, TRANSFORMER, tiny_model


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.tsv"
    lines = [f"{source}\t{target}\n" for source, target in zip(CORPUS, reversed(CORPUS), strict=True)]
    file.write_text("".join(lines), encoding="utf-8")
    return file


@pytest.mark.parametrize("config", [TRANSFORMER, RNN])
def test_every_layer_has_a_range_and_can_be_packed_by_it(config, pairs: Path) -> None:  # type: ignore[no-untyped-def]
    trained = tiny_model(config)
    scales = calibrate(trained, pairs)
    assert scales.ranges.keys() == {layer.key for layer in trained.model.linears()}
    assert all(-np.inf < seen.low < seen.high < np.inf for seen in scales.ranges.values())
    assert scales.source.pairs == len(CORPUS)
    assert (scales.source.file, scales.source.sha256) == ("pairs.tsv", sha256(pairs.read_bytes()))
    trained.model.pack(Precision("int8", scales.ranges))


def test_what_follows_relu_is_never_negative(pairs: Path) -> None:
    after_relu = [seen for key, seen in calibrate(tiny_model(TRANSFORMER), pairs).ranges.items() if "shrink" in key]
    assert [seen.low for seen in after_relu] == [0.0, 0.0]


def test_so_many_pairs_are_read_from_first_to_last(pairs: Path) -> None:
    told: list[tuple[str, int, int]] = []
    few = calibrate(tiny_model(RNN), pairs, lambda *stage: told.append(stage), most_pairs=2)
    pairs.write_bytes(b"".join(pairs.read_bytes().splitlines(keepends=True)[:: len(CORPUS) - 1]))
    assert few.source.pairs == 2
    assert few.ranges == calibrate(tiny_model(RNN), pairs).ranges
    assert next((done, total) for stage, done, total in told if stage == STAGE) == (0, 1)


def test_pairs_that_are_too_long_are_no_help(tmp_path: Path) -> None:
    (tmp_path / "long.tsv").write_text("cat " * 50 + "\tcat\n")
    with pytest.raises(DataError, match="every calibration pair exceeds limits"):
        calibrate(tiny_model(RNN), tmp_path / "long.tsv")


def test_broken_weights_are_found(pairs: Path) -> None:
    trained = tiny_model(TRANSFORMER)
    trained.model.embedding.table.assign(trained.model.embedding.table * np.nan)
    with pytest.raises(CalibrationError, match="the model's weights are broken"):
        calibrate(trained, pairs)
