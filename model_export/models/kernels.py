"""How a linear layer multiplies once its model is packed for decoding: the one place where its dtype is decided.

A decode step reads every weight of the decoder for a handful of rows, so it lives from how small weights are and how
they lie in memory. What is chosen here was measured: docs/decisions/0012 (float32) and 0020 (bfloat16, int8).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from model_export.models.int8_kernels import RowScaledInt8Kernel, StaticInt8Kernel
from model_export.models.native_ops import product
from model_export.models.precision import Kernel, LinearWeights, Precision


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
        self._blocks = tf.Variable(padded.reshape(count, block, in_size).transpose(0, 2, 1), trainable=False)
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
        self._kernel = tf.Variable(weights.kernel.T, trainable=False, dtype=tf.bfloat16)
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
        y = product("_MklNativeFusedMatMul", inputs, [tf.bfloat16], self._attributes)
        return y if residual is None else tf.cast(y, tf.float32) + residual
