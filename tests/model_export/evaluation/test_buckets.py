"""Where buckets begin and end."""

from __future__ import annotations

import numpy as np
import pytest

from model_export.evaluation.buckets import FEW, Bucket, by_length


def spans(lengths: list[int], count: int) -> list[tuple[int, int, int]]:
    found = by_length(np.array(lengths), count)
    rows = np.concatenate([bucket.rows for bucket in found])
    assert sorted(rows.tolist()) == list(range(len(lengths)))  # every source in one bucket
    for bucket in found:
        assert all(bucket.shortest <= lengths[row] <= bucket.longest for row in bucket.rows)
    return [(bucket.shortest, bucket.longest, len(bucket.rows)) for bucket in found]


@pytest.mark.parametrize(
    ("lengths", "count", "expected"),
    [
        ([4, 1, 3, 2], 4, [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 1)]),
        ([1, 2, 3, 4, 5, 6], 2, [(1, 3, 3), (4, 6, 3)]),
        ([1, 9, 20], 2, [(1, 9, 2), (20, 20, 1)]),
        ([5, 5, 5, 5, 5, 9], 4, [(5, 5, 5), (9, 9, 1)]),  # equal lengths stay together
        ([7, 7], 4, [(7, 7, 2)]),
        ([3], 4, [(3, 3, 1)]),
        ([2, 8, 5], 1, [(2, 8, 3)]),
    ],
)
def test_buckets_part_the_sources(lengths: list[int], count: int, expected: list[tuple[int, int, int]]) -> None:
    assert spans(lengths, count) == expected


def test_a_small_bucket_says_so() -> None:
    assert Bucket(1, 2, np.arange(FEW - 1)).is_small
    assert not Bucket(1, 2, np.arange(FEW)).is_small
