"""What a model computes in, and what a linear layer is to the kernel that multiplies for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model_export.contract import Dtype


class InputRange(NamedTuple):
    """Smallest and largest value that a linear layer is expected to read."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Precision:
    """What a packed model computes in."""

    dtype: Dtype = "float32"
    input_ranges: Mapping[str, InputRange] | None = None
    """Of int8, by ``Linear.key``: static scales. Without them every row of a product is scaled by its own maximum."""

    @property
    def kept_dtype(self) -> tf.DType:
        """Of what is kept from step to step: keys and values of attention."""
        return tf.float32 if self.dtype == "float32" else tf.bfloat16


FLOAT32: Final = Precision()


class LinearWeights(NamedTuple):
    """A linear layer as it was trained."""

    kernel: NDArray[np.float32]  # [out, in]
    bias: NDArray[np.float32]  # [out]
    is_relu: bool  # whether ReLU follows
    is_kept: bool  # whether its outputs are kept from step to step, or meet what is
    is_final: bool  # whether its outputs are logits, which tokens are chosen by
    is_positive: bool = False  # whether it never reads what is negative
    reader: str | None = None  # key of the one layer that reads the outputs, as they are, after ReLU


class Kernel(Protocol):
    """A linear layer, ReLU included, in a layout and dtype of its own."""

    @property
    def variables(self) -> Sequence[tf.Variable]:
        """All that it reads."""
        ...

    def __call__(self, x: tf.Tensor, residual: tf.Tensor | None = None) -> tf.Tensor:
        """[N, in] -> [N, out], float32 or bfloat16 either way, or what the ``reader`` reads.

        With a ``residual`` float32 [N, out], which is added, float32.
        """
        ...
