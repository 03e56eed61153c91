"""Figures worked by hand, and those of sacrebleu."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sacrebleu

from model_export.evaluation.fitting import Pair
from model_export.evaluation.measures import AnswerMetrics, Measure, likelihood_measures
from model_export.evaluation.subject import EvaluationError, Scored
from model_export.text.metrics import corpus_scores

REFERENCES = [["le chat est là ce soir", "voilà le chat ici ."], ["il pleut très fort ."], ["oui , bien sûr !"]]
ANSWERS = ["voilà le chat là ce soir", "", "oui , bien sûr ."]


def by_name(measures: list[Measure]) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}


# --- answers ----------------------------------------------------------------------------------------------------------


def test_bleu_and_chrf_are_sacrebleus_over_all_references() -> None:
    metrics = AnswerMetrics(REFERENCES)

    found = {measure.name: measure.score() for measure in metrics.measures(ANSWERS)}

    assert found == pytest.approx(corpus_scores(ANSWERS, REFERENCES))
    assert 0 < found["bleu"] < found["chrf"] < 100  # type: ignore[operator]
    assert metrics.signatures["bleu"].startswith("nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert metrics.signatures["chrf"].startswith("nrefs:var|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_some_sources_are_scored_as_if_they_were_all() -> None:
    measures = by_name(AnswerMetrics(REFERENCES).measures(ANSWERS))
    alone = corpus_scores([ANSWERS[0], ANSWERS[2]], [REFERENCES[0], REFERENCES[2]])

    assert measures["bleu"].score(np.array([0, 2])) == pytest.approx(alone["bleu"])
    assert measures["chrf"].score(np.array([0, 2])) == pytest.approx(alone["chrf"])


def test_empty_answers_score_0() -> None:
    for measure in AnswerMetrics(REFERENCES).measures(["", "", ""]):
        assert measure.score() == 0.0


def test_the_tokenizer_of_bleu_is_chosen() -> None:
    answers, references = ["오늘 날씨가 좋네요"], [["오늘 날씨가 좋습니다"]]

    metrics = AnswerMetrics(references, "char")

    bleu = by_name(metrics.measures(answers))["bleu"].score()
    assert bleu == pytest.approx(sacrebleu.corpus_bleu(answers, [references[0]], tokenize="char").score)
    assert bleu != pytest.approx(corpus_scores(answers, references)["bleu"])
    assert "tok:char" in metrics.signatures["bleu"]


def test_a_tokenizer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mecab_ko", None)  # as where it is missing

    with pytest.raises(EvaluationError, match=r"--tokenize ko-mecab needs a package .* 'sacrebleu\[ko\]'"):
        AnswerMetrics(REFERENCES, "ko-mecab")


# --- targets ----------------------------------------------------------------------------------------------------------


def scored(log_probs: list[float], ranks: list[int]) -> Scored:
    return Scored(np.array(log_probs, np.float32), np.array(ranks, np.int32), 3)


PAIRS = [Pair(0, "ab"), Pair(0, "e\u0301"), Pair(2, "abcd")]  # é in two code points is one character
SCORED = [scored([-0.5, -1.0, -0.25], [0, 3, 0]), scored([-2.0, -0.25], [1, 0]), scored([-4.0], [0])]


def test_likelihoods_by_hand() -> None:
    measures = by_name(likelihood_measures(PAIRS, SCORED, sources=3))

    assert measures["loss"].score() == pytest.approx(8.0 / 6)
    assert measures["perplexity"].score() == pytest.approx(math.exp(8.0 / 6))
    assert measures["accuracy"].score() == pytest.approx(4 / 6)
    assert measures["nats_per_character"].score() == pytest.approx(8.0 / (2 + 1 + 4))


def test_likelihoods_of_some_sources() -> None:
    measures = by_name(likelihood_measures(PAIRS, SCORED, sources=3))

    assert measures["loss"].score(np.array([0, 1])) == pytest.approx(4.0 / 5)
    assert measures["perplexity"].score(np.array([2])) == pytest.approx(math.exp(4.0))
    for measure in measures.values():
        assert measure.score(np.array([1])) is None  # it has no pair


def test_a_perplexity_beyond_numbers_is_none() -> None:
    measures = by_name(likelihood_measures(PAIRS[:1], [scored([-1000.0], [5])], sources=1))

    assert measures["loss"].score() == 1000.0
    assert measures["perplexity"].score() is None
