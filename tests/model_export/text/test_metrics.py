"""BLEU and chrF against several references."""

from __future__ import annotations

import pytest
import sacrebleu

from model_export.text.metrics import corpus_scores


def test_any_of_the_references_counts() -> None:
    references = [["le chat est là .", "voilà le chat ici ."], ["il pleut très fort .", "x", "y"]]

    found = corpus_scores(["voilà le chat ici .", "il pleut très fort ."], references)

    assert found["bleu"] == pytest.approx(100.0)
    assert found["chrf"] == pytest.approx(100.0)


def test_a_missing_second_reference_is_not_an_empty_one() -> None:
    hypotheses = ["le chat est ici ce soir", "il pleut des cordes ici"]
    once = ["le chat est là ce soir", "il pleut des cordes là"]

    found = corpus_scores(hypotheses, [[once[0]], [once[1], once[1]]])

    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [once]).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(hypotheses, [once]).score)
