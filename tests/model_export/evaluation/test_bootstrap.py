"""Significance: sacrebleu's own, and the same for likelihoods."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from model_export.evaluation.bootstrap import SEED, Difference, compare
from model_export.evaluation.fitting import Pair
from model_export.evaluation.measures import AnswerMetrics, Measure, likelihood_measures
from model_export.evaluation.subject import Scored
from model_export.text.metrics import reference_streams

WORDS = ["le", "chat", "noir", "dort", "sur", "un", "grand", "tapis", "rouge", "ce", "soir"]


def sentences(seed: int, count: int = 60) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.permutation(WORDS)[:7]) for _ in range(count)]


BOTH = list(zip(sentences(1), sentences(2), strict=True))
REFERENCES = [[one, other] if number % 3 else [one] for number, (one, other) in enumerate(BOTH)]


def answers(seed: int, every: int) -> list[str]:
    """The first references, but that one of so many is something else."""
    return [
        group[0] if number % every else other
        for number, (group, other) in enumerate(zip(REFERENCES, sentences(seed), strict=True))
    ]


GOOD, WORSE = answers(3, 4), answers(4, 3)


def measures(written: list[str]) -> list[Measure]:
    return AnswerMetrics(REFERENCES).measures(written)


@pytest.mark.parametrize("worse", [WORSE, sentences(5)])
def test_p_values_are_those_of_sacrebleu(worse: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    theirs = PairedTest(
        [("good", GOOD), ("worse", worse)],
        {"BLEU": BLEU(), "chrF2": CHRF()},
        reference_streams(REFERENCES),
        test_type="bs",
        n_samples=300,
    )()[1]

    bleu, chrf = compare(measures(GOOD), measures(worse), samples=300)

    for ours, name in ((bleu, "BLEU"), (chrf, "chrF2")):
        one, other = theirs[name]
        assert ours.difference == pytest.approx(other.score - one.score)
        assert ours.p_value == pytest.approx(other.p_value, abs=1e-9)
        assert ours.low < ours.difference < ours.high


def test_a_clear_difference_is_significant_and_a_small_one_not() -> None:
    bleu, chrf = compare(measures(GOOD), measures(sentences(5)), samples=200)
    assert bleu.high < 0
    assert chrf.high < 0
    assert bleu.p_value == chrf.p_value == 1 / 201

    nearly = [*GOOD[:-2], GOOD[-1], GOOD[-2]]
    bleu, _ = compare(measures(GOOD), measures(nearly), samples=200)
    assert bleu.p_value is not None
    assert bleu.p_value > 0.05


def test_the_same_seed_gives_the_same_and_another_nearly_so() -> None:
    once = compare(measures(GOOD), measures(WORSE), samples=200)

    assert compare(measures(GOOD), measures(WORSE), samples=200, seed=SEED) == once
    other = compare(measures(GOOD), measures(WORSE), samples=200, seed=1)
    assert other != once
    assert [each.difference for each in other] == [each.difference for each in once]


def test_swapped_models_differ_by_the_sign() -> None:
    for one, other in zip(
        compare(measures(GOOD), measures(WORSE), samples=200),
        compare(measures(WORSE), measures(GOOD), samples=200),
        strict=True,
    ):
        assert one == Difference(
            one.name, -other.difference, pytest.approx(-other.high), pytest.approx(-other.low), other.p_value
        )


def test_nothing_is_significant_where_nothing_differs() -> None:
    for each in compare(measures(GOOD), measures(GOOD), samples=100):
        assert (each.difference, each.low, each.high, each.p_value) == (0.0, 0.0, 0.0, None)


def likelihoods(log_probs: list[float], sources: list[int]) -> list[Measure]:
    pairs = [Pair(source, "ab") for source in sources]
    return likelihood_measures(
        pairs, [Scored(np.array([each, each]), np.zeros(2, int), 2) for each in log_probs], max(sources) + 1
    )


def test_likelihoods_are_resampled_by_source() -> None:
    """With two sources, one of which is worse by 1, a resample can only have a difference of 0, 1/2 or 1."""
    differences = compare(
        likelihoods([-1.0, -1.0, -1.0, -1.0], [0, 0, 1, 1]), likelihoods([-1.0, -1.0, -2.0, -2.0], [0, 0, 1, 1])
    )
    loss, perplexity, accuracy, nats = differences

    assert (loss.name, loss.difference, loss.low, loss.high) == ("loss", 0.5, 0.0, 1.0)
    assert perplexity.difference == pytest.approx(math.exp(1.5) - math.exp(1.0))
    assert accuracy.p_value is None
    assert nats.difference == pytest.approx(loss.difference)


def test_what_runtimes_differ_by_is_no_difference() -> None:
    (loss, *_) = compare(likelihoods([-1.0, -2.0], [0, 1]), likelihoods([-1.0002, -2.0001], [0, 1]), samples=100)
    (other, *_) = compare(likelihoods([-1.0, -2.0], [0, 1]), likelihoods([-1.01, -2.01], [0, 1]), samples=100)

    assert loss.p_value is None
    assert other.p_value is not None


def test_what_is_not_defined_is_left_out() -> None:
    nothing = likelihood_measures([], [], sources=2)

    assert compare(nothing, nothing) == []


def test_resamples_are_told() -> None:
    told: list[tuple[str, int, int]] = []

    compare(measures(GOOD), measures(WORSE), samples=101, on_progress=lambda *stage: told.append(stage))

    assert told == [("resampling", done, 101) for done in (0, 50, 100)]
