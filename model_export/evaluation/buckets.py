"""Sources by their length: as many in each bucket as lengths that are equal allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

FEW: Final = 30
"""Scores of fewer sources say little."""


@dataclass(frozen=True)
class Bucket:
    """Sources of ``shortest`` to ``longest`` tokens."""

    shortest: int
    longest: int
    rows: NDArray[np.int64]

    @property
    def is_small(self) -> bool:
        """Too few sources to conclude much."""
        return len(self.rows) < FEW


def by_length(lengths: NDArray[np.int64], count: int) -> list[Bucket]:
    """At most ``count``, none empty, cut at the quantiles of ``lengths`` [N]; equal lengths share one."""
    quantiles = np.quantile(lengths, np.arange(1, count + 1) / count, method="inverted_cdf")
    buckets = []
    below = 0
    for longest in np.unique(quantiles):
        rows = np.flatnonzero((lengths > below) & (lengths <= longest))
        buckets.append(Bucket(int(lengths[rows].min()), int(longest), rows))
        below = longest
    return buckets
