"""Which folder is meant, and a model in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET
from model_export.evaluation.local import chosen_folder, local_subject
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


def test_an_artifact_answers_and_scores(artifact_root: Path) -> None:
    texts = ["the cat", "안녕하세요", "le chat est sur le tapis"]
    with local_subject(artifact_root / "tiny-rnn" / "1", "tiny") as subject:
        ids = subject.tokenize(texts)
        written = subject.generate(texts, {"beam_size": 2, "max_new_tokens": 6})
        (one,) = subject.generate(texts[1:2], {"beam_size": 2, "max_new_tokens": 6})
        scored = subject.score(texts, ["the sea", "la mer", "日本語の本"])
        with pytest.raises(EvaluationError, match=r"^tiny: beam_size must be .*6"):
            subject.generate(texts, {"beam_size": 7})
        with pytest.raises(EvaluationError, match=r"^tiny: a source must have 1\.\.48 tokens"):
            subject.score(["cat " * 60], ["cat"])

    assert subject.limits.max_source_tokens == 48
    assert [subject.detokenize(row) for row in ids] == texts
    assert written[1] == one
    assert all(1 <= each.tokens <= 6 for each in written)
    for source, each, target in zip(ids, scored, subject.tokenize(["the sea", "la mer", "日本語の本"]), strict=True):
        assert each.source_tokens == len(source) + 1
        assert each.log_probs.shape == each.ranks.shape == (len(target) + 1,)
        assert np.all(each.log_probs < 0)
        assert np.all(each.ranks >= 0)
