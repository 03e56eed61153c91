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
    reader = precision.input_ranges[weights.reader] if weights.reader else None
    return StaticInt8Kernel(weights, precision.input_ranges[key], reader)


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
        self._bias = weights.bias
        self._is_relu = weights.is_relu
        self.variables = (self._blocks,)

    def __call__(self, x: tf.Tensor, residual: tf.Tensor | None = None) -> tf.Tensor:
        count, _, block = self._blocks.shape
        y = tf.matmul(tf.cast(x, tf.float32)[tf.newaxis], tf.convert_to_tensor(self._blocks))  # [blocks, N, 48]
        y = tf.reshape(tf.transpose(y, [1, 0, 2]), [-1, count * block])
        y = y if count * block == self._out_size else y[:, : self._out_size]
        y = tf.nn.bias_add(y, self._bias)
        y = tf.nn.relu(y) if self._is_relu else y
        return y if residual is None else y + residual


class Bfloat16Kernel:
    """bfloat16 weights, inputs and outputs, summed in float32 by AVX-512's dot products of pairs.

    oneDNN wants pairs of inputs side by side. Told that the weights are constant, it lays them out so once, for any
    number of rows; without that, at each call.
    """

    def __init__(self, weights: LinearWeights) -> None:
        self._kernel = _constant(weights.kernel.T, tf.bfloat16)
        self._bias = weights.bias
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
        self.variables = (self._kernel,)

    def __call__(self, x: tf.Tensor, residual: tf.Tensor | None = None) -> tf.Tensor:
        inputs = [
            tf.cast(x, tf.bfloat16),
            tf.convert_to_tensor(self._kernel),
            tf.constant(self._bias, tf.bfloat16),
        ]
        y = _product("_MklNativeFusedMatMul", inputs, [tf.bfloat16], self._attributes)
        return y if residual is None else tf.cast(y, tf.float32) + residual


class _Int8Kernel:
    """int8 weights with a scale for each output (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, symmetric)."""

    def __init__(self, weights: LinearWeights, added: NDArray[np.float32]) -> None:
        """``added`` [out]: to the product, before it is scaled any further."""
        highest = np.maximum(np.abs(weights.kernel).max(axis=1), 1e-20)  # [out]
        quantized = np.rint(weights.kernel * (127.0 / highest)[:, None]).astype(np.int8)
        self._kernel = tf.Variable(tf.bitcast(quantized.T, tf.qint8), trainable=False)
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
            quantized = tf.bitcast(x, tf.quint8)
        else:
            quantized = _quantized(x, low, high, tf.qint8 if seen.low else tf.quint8)
        kernel = tf.convert_to_tensor(self._kernel)
        tensors = [quantized, kernel, tf.constant(self._added), *([] if residual is None else [residual])]
        ranges = [low, high, tf.constant(-self._highest), tf.constant(self._highest), *map(tf.constant, out_range)]
        out_ranges = [tf.float32] * len(out_range)
        attributes = {
            "Tdevice_inputs": [tensor.dtype for tensor in tensors],
            "Thost_inputs": [tf.float32] * len(ranges),
            "Tdevice_outputs": [out_dtype],
            "Thost_outputs": out_ranges,
            "T1": quantized.dtype,
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
        return _product("_QuantizedMatMul", [*tensors, *ranges], [out_dtype, *out_ranges], attributes)


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
        self._is_relu, self._is_kept = weights.is_relu, weights.is_kept

    def __call__(self, x: tf.Tensor, residual: tf.Tensor | None = None) -> tf.Tensor:
        x = tf.cast(x, tf.float32)
        scale = tf.reduce_max(tf.abs(x), axis=-1, keepdims=True) + 1e-9  # [N, 1]
        y = self._product(x / scale, InputRange(-1.0, 1.0), ["Dequantize"]) * scale
        y = tf.nn.bias_add(y, self._bias)
        y = tf.nn.relu(y) if self._is_relu else y
        if residual is not None:
            return y + residual
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


def _symmetric(seen: InputRange) -> InputRange:
    """The range that is told apart in int8: around 0, or from 0 on, with twice the resolution."""
    high = max(-seen.low, seen.high, 1e-6)
    return InputRange(0.0 if seen.low >= 0.0 else -high, high)


def _quantized(x: tf.Tensor, low: tf.Tensor, high: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Of ties rounded to even, TensorFlow would make oneDNN's reorder, which costs ten times as much for few rows."""
    x = tf.cast(x, tf.float32)
    options = {"mode": "SCALED", "round_mode": "HALF_AWAY_FROM_ZERO"}
    return tf.raw_ops.QuantizeV2(input=x, min_range=low, max_range=high, T=dtype, **options).output


def _constant(value: NDArray[Any], dtype: tf.DType = tf.float32) -> tf.Variable:
    return tf.Variable(value, trainable=False, dtype=dtype)


def _product(
    name: str, inputs: Sequence[tf.Tensor], dtypes: Sequence[tf.DType], attributes: Mapping[str, Any]
) -> tf.Tensor:
    """[N, out] of an operation that TensorFlow gives no Python name; ``inputs`` begin with [N, in] and [in, out]."""
    if tf.executing_eagerly():  # such an operation exists in graphs alone
        in_graph = tf.function(_product, autograph=False, reduce_retracing=True)
        return in_graph(name, inputs, dtypes, attributes)
    encoded = {key: _attribute(value) for key, value in attributes.items()}
    graph = tf.compat.v1.get_default_graph()
    y = graph.create_op(name, list(inputs), dtypes=list(dtypes), attrs=encoded, name="mul").outputs[0]
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
