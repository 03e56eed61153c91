"""Figures of merit as sums over sources, so that all sources, a bucket or a resample of them are scored alike."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF

from model_export.evaluation.fitting import Pair
from model_export.evaluation.subject import EvaluationError, Scored
from model_export.text.metrics import reference_streams

PER_TOKEN: Final = ("loss", "perplexity", "accuracy")
"""Measures that say nothing of two models whose tokens differ."""

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """``score_of`` takes the sum of the sources' ``statistics``; NaN where it is not defined."""

    name: str
    statistics: Sums  # [N, k], a row for each source
    score_of: Callable[[Sums], float]

    def score(self, rows: NDArray[np.int64] | None = None) -> float | None:
        """Over these sources, or over all; None where it is no number, as of no pairs at all."""
        chosen = self.statistics if rows is None else self.statistics[rows]
        score = self.score_of(chosen.sum(axis=0))
        return score if math.isfinite(score) else None


# --- answers against references -----------------------------------------------------------------------------------


class AnswerMetrics:
    """``bleu`` and ``chrf`` of answers to the same sources; ``references[i]`` are all the right ones to the i-th."""

    def __init__(self, references: Sequence[Sequence[str]], tokenizer: str = "13a") -> None:
        """
        Raises:
            EvaluationError: sacrebleu's ``tokenizer`` needs a package that is not installed.
        """
        streams = reference_streams(references)
        try:
            bleu = BLEU(tokenize=tokenizer, force=True, references=streams)
        except (ImportError, RuntimeError) as error:
            raise EvaluationError(
                f"--tokenize {tokenizer} needs a package of its own: pip install 'sacrebleu[{tokenizer[:2]}]'"
            ) from error
        self._metrics = {"bleu": bleu, "chrf": CHRF(references=streams)}
        self.signatures = {name: f"{metric.get_signature()}" for name, metric in self._metrics.items()}
        """sacrebleu's, by which figures can be cited."""

    def measures(self, answers: Sequence[str]) -> list[Measure]:
        """As ``corpus_score`` and ``sacrebleu.significance`` make them, from the statistics of each sentence."""
        return [_by_sacrebleu(name, metric, answers) for name, metric in self._metrics.items()]


def _by_sacrebleu(name: str, metric: Any, answers: Sequence[str]) -> Measure:
    statistics = np.array(metric._extract_corpus_statistics(answers, None), np.float64)
    return Measure(name, statistics, lambda sums: float(metric._compute_score_from_stats(list(sums)).score))


# --- targets as the model's own answers ---------------------------------------------------------------------------


def likelihood_measures(pairs: Sequence[Pair], scored: Sequence[Scored], sources: int) -> list[Measure]:
    """``loss``, ``perplexity``, ``accuracy`` and ``nats_per_character``, over all tokens of all targets, EOS included.

    ``loss`` is in nats per token; ``accuracy`` is the share of tokens that are the model's own choice, given those
    before them; characters are those of the targets after NFC, and EOS is none.
    """
    sums = np.zeros([sources, 4])  # nats, tokens, characters, right tokens
    for pair, each in zip(pairs, scored, strict=True):
        characters = len(unicodedata.normalize("NFC", pair.target))
        nats = -float(np.sum(each.log_probs, dtype=np.float64))
        sums[pair.source] += [nats, len(each.log_probs), characters, np.count_nonzero(each.ranks == 0)]
    nats, tokens, characters, right = sums.T
    return [
        _ratio("loss", nats, tokens),
        Measure("perplexity", np.stack([nats, tokens], axis=1), lambda both: _exp(_divide(both))),
        _ratio("accuracy", right, tokens),
        _ratio("nats_per_character", nats, characters),
    ]


def _ratio(name: str, above: Sums, below: Sums) -> Measure:
    return Measure(name, np.stack([above, below], axis=1), _divide)


def _divide(both: Sums) -> float:
    return float(both[0] / both[1]) if both[1] else math.nan


def _exp(value: float) -> float:
    return math.exp(value) if value < math.log(np.finfo(np.float64).max) else math.inf
