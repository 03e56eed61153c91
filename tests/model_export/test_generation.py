"""Models opened without a server: the signatures for texts, of a trained model's folder and of artifacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from model_export.artifact.calls import Arrays, Signature, text_array
from model_export.artifact.reloaded import loaded
from model_export.contract import SIGNATURES
from model_export.generation import GenerationError, generate, opened
from model_export.trained_model import save_trained_model
from tests.support.tiny_models import CORPUS, RNN, tiny_model

PAIRS: Arrays = {"texts": text_array(CORPUS[:3]), "targets": text_array(["la mer", "", "안녕"])}


@pytest.fixture(scope="module")
def artifact(artifact_root: Path) -> Path:
    return artifact_root / "tiny-rnn" / "1"


def test_a_trained_model_scores_as_its_export_does(artifact: Path, tmp_path: Path) -> None:
    save_trained_model(tmp_path, tiny_model(RNN))
    with opened(tmp_path) as trained:
        scores = trained.score(PAIRS)
    assert scores.keys() == SIGNATURES["score"].outputs.keys()
    with opened(artifact) as exported:
        expected = exported.score(PAIRS)
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values, rtol=1e-4, atol=1e-4, err_msg=name)


def test_an_artifact_of_before_there_was_scoring_says_so(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def loaded_without(path: Path) -> Iterator[Mapping[str, Signature]]:
        with loaded(path) as signatures:
            yield {name: each for name, each in signatures.items() if name not in ("score", "score_ids", "align")}

    monkeypatch.setattr("model_export.generation.loaded", loaded_without)
    with opened(artifact) as model:
        (answer,) = generate(model.generate, CORPUS[:1], {"max_new_tokens": 3})
        assert 1 <= len(answer.ids[0]) <= 3
        with pytest.raises(GenerationError, match=r"1 cannot score, as it was exported by an earlier version"):
            model.score(PAIRS)
