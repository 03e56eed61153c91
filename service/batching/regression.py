"""Linear regression with positive coefficients: fitted to a table, and learnt one observation at a time."""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul
from typing import Final, NamedTuple

import numpy as np

FORGETTING: Final = 0.99
"""What an observation's weight is multiplied by with each that follows: some hundred count."""
RIDGE: Final = 1e-3
"""Weight of the prior, in observations."""
LEAST: Final = 1e-3
"""A prediction weighs an observation by at least this part of the prior's."""
TRUSTED_AFTER: Final = 8
"""Observations after which predictions are good for something: before, the prior may be off by any factor."""
CLIP: Final = 4.0
"""From then on an observation counts for at most so many times what was predicted, and at least for that part of it."""
SWEEPS: Final = 4
"""Of coordinate descent for each observation. It goes on from where it stood, so that few are enough."""
LEAST_SHARE: Final = 1e-4
"""A fitted coefficient explains at least this part of the mean: it is a unit for what is learnt later."""

Matrix = list[list[float]]


class Fit(NamedTuple):
    """A regression fitted to a table."""

    coefficients: tuple[float, ...]
    certainty: Matrix  # normal equations of the table in units of the coefficients; its elements sum to 1
    errors: tuple[float, ...]  # predicted over measured, less 1: of each observation


def fit(table: Sequence[tuple[Sequence[float], float]]) -> Fit:
    """The coefficients > 0 with the least squares of relative errors.

    Args:
        table: observations x and y > 0, at least one; every coordinate of x is positive in some of them.
    """
    xs, ys = np.array([x for x, _ in table]), np.array([y for _, y in table])  # [N, D], [N]
    means = xs.mean(axis=0)  # [D]
    relative = xs / means / ys[:, None]  # [N, D]; times coefficients, in units of the means, all should be 1
    factors, kept = np.zeros(len(means)), list(range(len(means)))
    while kept:
        found, *_ = np.linalg.lstsq(relative[:, kept], np.ones(len(ys)), rcond=None)
        if found.min() >= 0.0:
            factors[kept] = found
            break
        del kept[int(found.argmin())]  # what would be negative is nothing, the most negative first
    coefficients = np.maximum(factors, LEAST_SHARE * factors.sum()) / means
    parts = xs * coefficients  # [N, D]
    predicted = parts.sum(axis=1)  # [N]
    shares = parts / predicted[:, None] / len(ys) ** 0.5  # [N, D]
    errors = tuple((predicted / ys - 1.0).tolist())
    return Fit(tuple(coefficients.tolist()), (shares.T @ shares).tolist(), errors)


class Regression:
    """``y = coefficients . x`` with coefficients >= 0: recursive least squares with forgetting.

    The normal equations are kept, and solved under the bound by coordinate descent. An observation weighs
    1 / predicted, as for a variance that grows with the mean (quasi-Poisson): what is predicted in sum is then what was
    measured in sum. Coordinates are scaled by the prior, so that all are of like size.
    """

    def __init__(self, prior: Sequence[float], certainty: Matrix | None = None, weight: float = RIDGE) -> None:
        """
        Args:
            prior: the coefficients before the first observation, all positive.
            certainty: how firmly each is known, as of ``Fit``; by default each by itself.
            weight: of the prior, in observations. From ``TRUSTED_AFTER`` on it is trusted itself.
        """
        self.observations = 0
        self._prior = tuple(prior)
        self._weight = weight
        size = len(self._prior)
        self._certainty = certainty or [[float(row == column) for column in range(size)] for row in range(size)]
        self._factors = [1.0] * size  # coefficients over the prior
        self._coefficients = list(self._prior)
        self._matrix = [[0.0] * size for _ in range(size)]
        self._moments = [0.0] * size

    @property
    def trusted(self) -> bool:
        """Whether there were enough observations, or the prior counts for as many."""
        return max(self.observations, self._weight) >= TRUSTED_AFTER

    def predict(self, x: Sequence[float]) -> float:
        """The expected y; positive for x that is not all zero, as long as no coefficient is."""
        total: float = sum(map(mul, x, self._coefficients))
        return total

    def learn(self, x: Sequence[float], y: float) -> None:
        """One observation, y > 0."""
        scaled = list(map(mul, x, self._prior))
        predicted = max(self.predict(x), LEAST * sum(scaled))
        if not self.trusted:
            predicted = max(predicted, y)  # as a weight: the prior's would be out of all proportion
        else:
            y = min(CLIP * predicted, max(predicted / CLIP, y))
        weight = 1.0 / predicted
        if not self.observations:
            self._hold_to_prior(self._weight * weight * sum(scaled) ** 2)
        self.observations += 1
        for row, moments in zip(self._matrix, scaled, strict=True):
            part = weight * moments
            row[:] = [FORGETTING * before + part * value for before, value in zip(row, scaled, strict=True)]
        self._moments = [
            FORGETTING * moment + weight * value * y for moment, value in zip(self._moments, scaled, strict=True)
        ]
        self._solve()

    def _hold_to_prior(self, weight: float) -> None:
        """A ridge around the prior, which keeps what no observation tells apart where it is."""
        self._matrix = [[weight * value for value in row] for row in self._certainty]
        self._moments = [sum(row) for row in self._matrix]

    def _solve(self) -> None:
        for _ in range(SWEEPS):
            for index, (row, moment) in enumerate(zip(self._matrix, self._moments, strict=True)):
                residual = moment - sum(map(mul, row, self._factors))
                self._factors[index] = max(0.0, self._factors[index] + residual / row[index])
        self._coefficients = list(map(mul, self._prior, self._factors))
