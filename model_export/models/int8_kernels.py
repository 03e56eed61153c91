"""Linear layers of eight bits; measured in docs/decisions/0020."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model_export.models.native_ops import product, quantized
from model_export.models.precision import InputRange, LinearWeights


class _Int8Kernel:
    """int8 weights with a scale for each output (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, symmetric)."""

    def __init__(self, weights: LinearWeights, added: NDArray[np.float32]) -> None:
        """``added`` [out]: to the product, before it is scaled any further."""
        highest = np.maximum(np.abs(weights.kernel).max(axis=1), 1e-20)  # [out]
        rounded = np.rint(weights.kernel * (127.0 / highest)[:, None]).astype(np.int8)
        self._kernel = tf.Variable(tf.bitcast(rounded.T, tf.qint8), trainable=False)
        self._highest, self._added = highest, added
        self.variables: tuple[tf.Variable, ...] = (self._kernel,)

    def _product(
        self,
        x: tf.Tensor,
        seen: InputRange,
        fused: Sequence[str],
        residual: tf.Tensor | None = None,
        out_dtype: tf.DType = tf.float32,
        out_range: Sequence[float] = (),
    ) -> tf.Tensor:
        """``x`` [N, in], quantized or not, of which what is ``seen`` counts -> [N, out].

        ``out_range``: what counts of outputs that are to be quantized.
        """
        low, high = tf.constant(seen.low), tf.constant(seen.high)
        if x.dtype == tf.uint8:  # by the layer before it, for this one
            inputs = tf.bitcast(x, tf.quint8)
        else:
            inputs = quantized(x, low, high, tf.qint8 if seen.low else tf.quint8)
        tensors = [
            inputs,
            tf.convert_to_tensor(self._kernel),
            tf.constant(self._added),
            *([] if residual is None else [residual]),
        ]
        ranges = [low, high, tf.constant(-self._highest), tf.constant(self._highest), *map(tf.constant, out_range)]
        out_ranges = [tf.float32] * len(out_range)
        attributes = {
            "Tdevice_inputs": [tensor.dtype for tensor in tensors],
            "Thost_inputs": [tf.float32] * len(ranges),
            "Tdevice_outputs": [out_dtype],
            "Thost_outputs": out_ranges,
            "T1": inputs.dtype,
            "T2": tf.qint8,
            "Tbias": tf.float32,
            "U": tf.float32,
            "Tout": out_dtype,
            "transpose_a": False,
            "transpose_b": False,
            "is_weight_const": True,  # laid out once, for any number of rows
            "is_bias_const": True,
            "fused_ops": ["BiasAdd", *fused],
            "input_quant_mode": "SCALED",
            "output_quant_mode": "SCALED",
        }
        return product("_QuantizedMatMul", [*tensors, *ranges], [out_dtype, *out_ranges], attributes)


class StaticInt8Kernel(_Int8Kernel):
    """int8 with one scale for all inputs, measured beforehand. Inputs beyond the range are clipped."""

    def __init__(self, weights: LinearWeights, seen: InputRange, reader: InputRange | None = None) -> None:
        """``reader``: what the layer that reads the outputs was seen to read, to give it outputs quantized for it."""
        super().__init__(weights, weights.bias)
        self._seen = _symmetric(seen)
        self._fused = ["Relu"] if weights.is_relu else []
        self._reader = None if reader is None else _symmetric(reader)
        self._out_dtype = tf.bfloat16 if weights.is_kept else tf.float32

    def __call__(self, x: tf.Tensor, residual: tf.Tensor | None = None) -> tf.Tensor:
        if self._reader is not None:
            y = self._product(x, self._seen, [*self._fused, "Requantize"], None, tf.quint8, self._reader)
            return tf.bitcast(y, tf.uint8)  # Keras knows no quint8
        if residual is not None:
            return self._product(x, self._seen, [*self._fused, "Add", "Dequantize"], residual)
        return self._product(x, self._seen, [*self._fused, "Dequantize"], None, self._out_dtype)


class RowScaledInt8Kernel(_Int8Kernel):
    """int8 with a scale for each row of inputs, its own largest absolute value: nothing to measure beforehand, and no
    row depends on another."""

    def __init__(self, weights: LinearWeights) -> None:
        super().__init__(weights, np.zeros_like(weights.bias))
        self._bias = weights.bias
        self._is_relu, self._is_kept, self._is_positive = weights.is_relu, weights.is_kept, weights.is_positive

    def __call__(self, x: tf.Tensor, residual: tf.Tensor | None = None) -> tf.Tensor:
        x = tf.cast(x, tf.float32)
        scale = tf.reduce_max(x if self._is_positive else tf.abs(x), axis=-1, keepdims=True) + 1e-9  # [N, 1]
        lowest = 0.0 if self._is_positive else -1.0
        y = self._product(x / scale, InputRange(lowest, 1.0), ["Dequantize"]) * scale
        y = tf.nn.bias_add(y, self._bias)
        y = tf.nn.relu(y) if self._is_relu else y
        if residual is not None:
            return y + residual
        return tf.cast(y, tf.bfloat16) if self._is_kept else y


def _symmetric(seen: InputRange) -> InputRange:
    """The range that is told apart in int8: around 0, or from 0 on, with twice the resolution."""
    high = max(-seen.low, seen.high, 1e-6)
    return InputRange(0.0 if seen.low >= 0.0 else -high, high)
