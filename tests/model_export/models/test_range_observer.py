"""What the calibration takes for the range of a layer's inputs."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from model_export.models.precision import LinearWeights
from model_export.models.range_observer import RangeObserver

IN_SIZE = 64
GENERATOR = np.random.default_rng(5)
INPUTS = GENERATOR.normal(size=[7, IN_SIZE]).astype(np.float32)
LAYER = LinearWeights(
    kernel=GENERATOR.normal(size=[50, IN_SIZE]).astype(np.float32) * IN_SIZE**-0.5,
    bias=GENERATOR.normal(size=50).astype(np.float32),
    is_relu=False,
    is_kept=False,
    is_final=False,
)


def test_a_range_is_of_all_that_was_read() -> None:
    observer = RangeObserver(LAYER)
    read = tf.function(observer)
    for x in (INPUTS, 2.0 * INPUTS):
        np.testing.assert_allclose(read(tf.constant(x)), x @ LAYER.kernel.T + LAYER.bias, atol=1e-5)
    assert observer.seen == (2.0 * INPUTS.min(), 2.0 * INPUTS.max())


def test_one_value_in_ten_thousand_is_beyond_the_range() -> None:
    observer = RangeObserver(LAYER)
    values = np.random.default_rng(0).permutation(np.arange(-31_999, 32_001)).astype(np.float32).reshape(-1, IN_SIZE)
    for x in np.split(values, 10):
        observer(tf.constant(x))
    assert observer.seen == (-31_997.0, 31_997.0)  # the seventh largest of 64,000


def test_nothing_that_is_left_out_makes_a_range_that_was_not_read() -> None:
    observer = RangeObserver(LAYER)
    x = np.full([1000, IN_SIZE], -1.0, np.float32)
    x[0, :9] = -50.0
    observer(tf.constant(x))
    observer(tf.zeros([0, IN_SIZE]))
    low, high = observer.seen
    assert (low, high) == (-50.0, -1.0)  # 9 of 64,000 are more than 6
    x[0, 6:9] = -1.0
    clipped = RangeObserver(LAYER)
    clipped(tf.constant(x))
    assert clipped.seen == (-1.0, -1.0)
