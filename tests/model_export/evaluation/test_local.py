"""A model in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_export.evaluation.local import local_subject
from model_export.evaluation.subject import EvaluationError


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
