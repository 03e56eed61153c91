"""Paired bootstrap resampling (Koehn 2004, https://aclanthology.org/W04-3250), the way sacrebleu does it.

The p-values are those of ``sacrebleu.significance.PairedTest`` with ``test_type="bs"``, which knows neither likelihoods
nor the interval of a difference, and holds all resamples in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_export.evaluation.measures import Measure
from model_export.text.progress import OnProgress, silent

SAMPLES: Final = 1000
SEED: Final = 12345
"""sacrebleu's default."""
_RESAMPLES_TOLD: Final = 50
_NOISE: Final = 1e-3
"""Nats of a source, more than two runtimes of one model differ by. Answers are counted in whole numbers."""


@dataclass(frozen=True)
class Difference:
    """Second minus first, over all sources, and what resampling the sources makes of it."""

    name: str
    difference: float
    low: float
    """Of the 95 % interval, by percentiles of the resamples."""
    high: float
    p_value: float | None
    """Two-sided: how often chance alone would move the resamples as far; None where no source makes a difference."""


def compare(
    first: Sequence[Measure],
    second: Sequence[Measure],
    samples: int = SAMPLES,
    seed: int = SEED,
    on_progress: OnProgress = silent,
) -> list[Difference]:
    """Two models' measures of the same name, on the same sources; all of them see the same resamples.

    Those that are not defined over all sources are left out.
    """
    both = [
        (one, other)
        for one, other in zip(first, second, strict=True)
        if one.score() is not None and other.score() is not None
    ]
    if not both:
        return []
    resampled = np.empty([samples, len(both)])
    for sample, rows in enumerate(_resamples(len(both[0][0].statistics), samples, seed)):
        if sample % _RESAMPLES_TOLD == 0:
            on_progress("resampling", sample, samples)
        resampled[sample] = [_difference(one, other, rows) for one, other in both]
    return [_judged(one, other, column) for (one, other), column in zip(both, resampled.T, strict=True)]


def interval(measure: Measure, samples: int = SAMPLES, seed: int = SEED) -> tuple[float, float]:
    """The 95 % interval of a score, by percentiles of the same resamples as in ``compare``."""
    rows = _resamples(len(measure.statistics), samples, seed)
    scores = [measure.score_of(measure.statistics[chosen].sum(axis=0)) for chosen in rows]
    low, high = np.nanpercentile(scores, [2.5, 97.5])
    return float(low), float(high)


def _resamples(sources: int, samples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """So many sources each, drawn with replacement: the very ones that sacrebleu draws with this seed."""
    generator = np.random.default_rng(seed)
    for _ in range(samples):
        yield generator.choice(sources, size=sources, replace=True)


def _difference(one: Measure, other: Measure, rows: NDArray[np.int64]) -> float:
    return other.score_of(other.statistics[rows].sum(axis=0)) - one.score_of(one.statistics[rows].sum(axis=0))


def _judged(one: Measure, other: Measure, resampled: NDArray[np.float64]) -> Difference:
    difference = _difference(one, other, np.arange(len(one.statistics)))
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    if np.allclose(one.statistics, other.statistics, rtol=0.0, atol=_NOISE):
        return Difference(one.name, difference, float(low), float(high), None)  # sacrebleu finds 1 / (samples + 1)
    sizes = np.abs(resampled)
    above = np.count_nonzero(sizes - np.nanmean(sizes) > abs(difference))
    return Difference(one.name, difference, float(low), float(high), (above + 1) / (len(resampled) + 1))
