"""How a linear layer multiplies once its model is packed for decoding: the one place where its dtype is decided.

A decode step reads every weight of the decoder for a handful of rows, so it lives from how small weights are and how
they lie in memory. What is chosen here was measured: docs/decisions/0012 (float32) and 0020 (bfloat16, int8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.framework import attr_value_pb2

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


class Kernel(Protocol):
    """A linear layer, ReLU included, in a layout and dtype of its own."""

    @property
    def variables(self) -> Sequence[tf.Variable]:
        """All that it reads."""
        ...

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """[N, in] -> [N, out], float32 or bfloat16 either way."""
        ...


def pack(weights: LinearWeights, precision: Precision, key: str) -> Kernel:
    """The layer as ``precision`` has it; ``key`` names it in ``precision.input_ranges``.

    Raises:
        KeyError: static scales were measured without this layer.
    """
    # Logits of eight bits would tie where float32 ones differ, and no product of TensorFlow's gives more for bfloat16.
    if precision.dtype == "float32" or (precision.dtype == "bfloat16" and weights.is_final):
        return BlockedKernel(weights)
    if precision.dtype == "bfloat16":
        return Bfloat16Kernel(weights)
    if precision.input_ranges is None:
        return RowScaledInt8Kernel(weights)
    return StaticInt8Kernel(weights, precision.input_ranges[key])


class BlockedKernel:
    """float32, cut into blocks of outputs, each stored input-major: [blocks, in, 48], the last padded with 0.

    Of a matrix whose rows lie kilobytes apart, oneDNN copies each tile into a buffer first; a block it multiplies where
    it lies, in the order of memory.
    """

    _BLOCK = 48
    """Three AVX-512 registers: for eight rows their products stay in registers, and for hundreds it is no slower."""

    def __init__(self, weights: LinearWeights) -> None:
        self._out_size, in_size = weights.kernel.shape
        block = min(self._BLOCK, self._out_size)
        count = -(-self._out_size // block)
        padded = np.pad(weights.kernel, [[0, count * block - self._out_size], [0, 0]])
        self._blocks = _constant(padded.reshape(count, block, in_size).transpose(0, 2, 1))
        self._bias = _constant(weights.bias)
        self._is_relu = weights.is_relu
        self.variables = (self._blocks, self._bias)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        count, _, block = self._blocks.shape
        y = tf.matmul(tf.cast(x, tf.float32)[tf.newaxis], tf.convert_to_tensor(self._blocks))  # [blocks, N, 48]
        y = tf.reshape(tf.transpose(y, [1, 0, 2]), [-1, count * block])
        y = y if count * block == self._out_size else y[:, : self._out_size]
        y = tf.nn.bias_add(y, self._bias)
        return tf.nn.relu(y) if self._is_relu else y


class Bfloat16Kernel:
    """bfloat16 weights, inputs and outputs, summed in float32 by AVX-512's dot products of pairs.

    oneDNN wants pairs of inputs side by side. Told that the weights are constant, it lays them out so once, for any
    number of rows; without that, at each call.
    """

    def __init__(self, weights: LinearWeights) -> None:
        self._kernel = _constant(weights.kernel.T, tf.bfloat16)
        self._bias = _constant(weights.bias, tf.bfloat16)
        self._attributes = {
            "T": tf.bfloat16,
            "transpose_a": False,
            "transpose_b": False,
            "is_filter_const": True,
            "num_args": 1,
            "fused_ops": ["BiasAdd", "Relu"] if weights.is_relu else ["BiasAdd"],
            "epsilon": 0.0,
            "leakyrelu_alpha": 0.0,
            "_kernel": "MklNameChangeOp",  # the label under which TensorFlow registers it
        }
        self.variables = (self._kernel, self._bias)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        inputs = [tf.cast(x, tf.bfloat16), tf.convert_to_tensor(self._kernel), tf.convert_to_tensor(self._bias)]
        return _product("_MklNativeFusedMatMul", inputs, tf.bfloat16, self._attributes)


class _Int8Kernel:
    """int8 weights with a scale for each output (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, symmetric)."""

    def __init__(self, weights: LinearWeights, added: NDArray[np.float32]) -> None:
        """``added`` [out]: to the product, before it is scaled any further."""
        highest = np.maximum(np.abs(weights.kernel).max(axis=1), 1e-20)  # [out]
        quantized = np.rint(weights.kernel * (127.0 / highest)[:, None]).astype(np.int8)
        self._kernel = _constant(quantized.T, tf.int8)
        self._vectors = _constant(np.stack([-highest, highest, added]))  # [3, out]: read as one
        self.variables: tuple[tf.Variable, ...] = (self._kernel, self._vectors)

    def _product(
        self, x: tf.Tensor, low: float, high: float, *fused: str, out_dtype: tf.DType = tf.float32
    ) -> tf.Tensor:
        """``x`` float32 [N, in], of which ``low`` (0: quint8) to ``high`` counts -> [N, out]."""
        in_dtype, low, high = tf.qint8 if low else tf.quint8, tf.constant(low), tf.constant(high)
        # Of ties rounded to even, TensorFlow would make oneDNN's reorder, which costs ten times as much for few rows.
        quantized = tf.raw_ops.QuantizeV2(
            input=x, min_range=low, max_range=high, T=in_dtype, mode="SCALED", round_mode="HALF_AWAY_FROM_ZERO"
        )
        lowest, highest, added = tf.unstack(tf.convert_to_tensor(self._vectors))
        kernel = tf.bitcast(tf.convert_to_tensor(self._kernel), tf.qint8)  # as qint8 it could not enter a loop
        inputs = [quantized.output, kernel, added, low, high, lowest, highest]
        attributes = {
            "Tdevice_inputs": [in_dtype, tf.qint8, tf.float32],
            "Thost_inputs": [tf.float32] * 4,
            "Tdevice_outputs": [out_dtype],
            "Thost_outputs": [],
            "T1": in_dtype,
            "T2": tf.qint8,
            "Tbias": tf.float32,
            "U": tf.float32,
            "Tout": out_dtype,
            "transpose_a": False,
            "transpose_b": False,
            "is_weight_const": True,  # laid out once, for any number of rows
            "is_bias_const": True,
            "fused_ops": ["BiasAdd", *fused, "Dequantize"],
            "input_quant_mode": "SCALED",
            "output_quant_mode": "SCALED",
        }
        return _product("_QuantizedMatMul", inputs, out_dtype, attributes)


class StaticInt8Kernel(_Int8Kernel):
    """int8 with one scale for all inputs, measured beforehand. Inputs beyond the range are clipped."""

    def __init__(self, weights: LinearWeights, seen: InputRange) -> None:
        super().__init__(weights, weights.bias)
        high = max(-seen.low, seen.high, 1e-6)
        self._range = (0.0 if seen.low >= 0.0 else -high), high  # without a sign there is twice the resolution
        self._fused = ["Relu"] if weights.is_relu else []
        self._out_dtype = tf.bfloat16 if weights.is_kept else tf.float32

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return self._product(tf.cast(x, tf.float32), *self._range, *self._fused, out_dtype=self._out_dtype)


class RowScaledInt8Kernel(_Int8Kernel):
    """int8 with a scale for each row of inputs, its own largest absolute value: nothing to measure beforehand, and no
    row depends on another."""

    def __init__(self, weights: LinearWeights) -> None:
        super().__init__(weights, np.zeros_like(weights.bias))
        self._bias = _constant(weights.bias)
        self._is_relu, self._is_kept = weights.is_relu, weights.is_kept
        self.variables = (*self.variables, self._bias)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.cast(x, tf.float32)
        scale = tf.reduce_max(tf.abs(x), axis=-1, keepdims=True) + 1e-9  # [N, 1]
        y = tf.nn.bias_add(self._product(x / scale, -1.0, 1.0) * scale, self._bias)
        y = tf.nn.relu(y) if self._is_relu else y
        return tf.cast(y, tf.bfloat16) if self._is_kept else y


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

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        tf.numpy_function(self._note, [x], [])
        return self._kernel(x)

    def _note(self, x: NDArray[np.float32]) -> None:
        if not x.size:
            return
        self._low, self._high = np.minimum(self._low, x.min()), np.maximum(self._high, x.max())
        self._count += x.size
        largest = np.concatenate([self._largest, np.abs(x).ravel()])
        self._largest = np.partition(largest, -self._KEPT)[-self._KEPT :] if largest.size > self._KEPT else largest


def _constant(value: NDArray[Any], dtype: tf.DType = tf.float32) -> tf.Variable:
    return tf.Variable(value, trainable=False, dtype=dtype)


def _product(name: str, inputs: Sequence[tf.Tensor], dtype: tf.DType, attributes: Mapping[str, Any]) -> tf.Tensor:
    """[N, out] of an operation that TensorFlow gives no Python name; ``inputs`` begin with [N, in] and [in, out]."""
    if tf.executing_eagerly():  # such an operation exists in graphs alone
        in_graph = tf.function(_product, autograph=False, reduce_retracing=True)
        return in_graph(name, inputs, dtype, attributes)
    encoded = {key: _attribute(value) for key, value in attributes.items()}
    operation = tf.compat.v1.get_default_graph().create_op(
        name, list(inputs), dtypes=[dtype], attrs=encoded, name="mul"
    )
    (y,) = operation.outputs
    y.set_shape([inputs[0].shape[0], inputs[1].shape[1]])
    return y


def _attribute(value: Any) -> attr_value_pb2.AttrValue:
    attribute = attr_value_pb2.AttrValue
    if isinstance(value, list):
        texts = [item.encode() for item in value if isinstance(item, str)]
        types = [item.as_datatype_enum for item in value if isinstance(item, tf.DType)]
        return attribute(list=attribute.ListValue(s=texts, type=types))
    if isinstance(value, tf.DType):
        return attribute(type=value.as_datatype_enum)
    if isinstance(value, str):
        return attribute(s=value.encode())
    kind = {bool: "b", int: "i", float: "f"}[type(value)]
    return attribute(**{kind: value})
