"""Which model is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET
from model_export.evaluation.opening import chosen_folder, place
from model_export.evaluation.remote import Address
from model_export.evaluation.subject import EvaluationError


def artifact(folder: Path) -> Path:
    (folder / ASSETS_FOLDER).mkdir(parents=True)
    (folder / ASSETS_FOLDER / MANIFEST_ASSET).write_text("{}")
    return folder


def test_of_versions_the_newest_or_the_one_that_is_named(tmp_path: Path) -> None:
    model = tmp_path / "en-fr"
    nine, ten = artifact(model / "9"), artifact(model / "10")
    (model / ".exporting-x").mkdir()

    assert chosen_folder(model) == ten
    assert chosen_folder(model, 9) == nine
    assert chosen_folder(ten) == ten
    with pytest.raises(EvaluationError, match="en-fr has no version 8: it has 9, 10"):
        chosen_folder(model, 8)


def test_a_trained_model_is_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")

    assert chosen_folder(tmp_path) == tmp_path


def test_a_folder_of_nothing(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(
            EvaluationError, match=f"{folder} is neither an artifact, nor a folder of its versions, nor"
        ):
            chosen_folder(folder)


def test_a_folder_or_a_service(tmp_path: Path) -> None:
    version = artifact(tmp_path / "en-fr" / "2")
    artifact(tmp_path / "en-fr" / "3")

    assert place(str(tmp_path / "en-fr"), "other", "2") == version
    assert place("http://host:8000/en-fr", "other", "2") == Address("http://host:8000", "en-fr", "2")
