"""Calibration: what linear layers read."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model_export.models.kernels import BlockedKernel
from model_export.models.precision import InputRange, LinearWeights


class RangeObserver:
    """A layer in float32 that notes what it reads: the calibration of static scales.

    The range leaves out one value in ten thousand, which will be clipped: that costs less than the coarser steps that a
    few outliers would make of all others (measured: docs/decisions/0020).
    """

    _BEYOND = 1e-4
    _KEPT = 2**16  # absolute values, the largest: enough to leave out that share of 650 million

    def __init__(self, weights: LinearWeights) -> None:
        self._kernel = BlockedKernel(weights)
        self.variables = self._kernel.variables
        self._low, self._high, self._count = np.inf, -np.inf, 0
        self._largest = np.zeros(0, np.float32)

    @property
    def seen(self) -> InputRange:
        """Of all inputs so far."""
        beyond = min(int(self._count * self._BEYOND), self._KEPT - 1)
        size = float(np.sort(self._largest)[-1 - beyond])
        return InputRange(float(np.maximum(self._low, -size)), float(np.minimum(self._high, size)))

    def __call__(self, x: tf.Tensor, residual: tf.Tensor | None = None) -> tf.Tensor:
        tf.numpy_function(self._note, [x], [])
        return self._kernel(x, residual)

    def _note(self, x: NDArray[np.float32]) -> None:
        if not x.size:
            return
        self._low, self._high = np.minimum(self._low, x.min()), np.maximum(self._high, x.max())
        self._count += x.size
        largest = np.concatenate([self._largest, np.abs(x).ravel()])
        self._largest = np.partition(largest, -self._KEPT)[-self._KEPT :] if largest.size > self._KEPT else largest
