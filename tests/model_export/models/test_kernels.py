"""What a packed linear layer computes in each dtype, beside the float32 product."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from model_export.contract import DTYPES
from model_export.models.kernels import pack
from model_export.models.precision import InputRange, LinearWeights, Precision
from tests.support.kernels import needs_kernels_of

pytestmark = needs_kernels_of("bfloat16", "int8")
IN_SIZE = 64
PRECISIONS = {
    "float32": (Precision(), 1e-5),
    "bfloat16": (Precision("bfloat16"), 0.02),
    "int8 by row": (Precision("int8"), 0.05),
    "int8 static": (Precision("int8", {"it": InputRange(-3.5, 3.0)}), 0.05),
}
each_precision = pytest.mark.parametrize(("precision", "tolerance"), PRECISIONS.values(), ids=PRECISIONS)


def weights(out_size: int = 50, **flags: bool) -> LinearWeights:
    generator = np.random.default_rng(5)
    kernel = generator.normal(size=(out_size, IN_SIZE)).astype(np.float32) * IN_SIZE**-0.5
    kernel *= np.geomspace(0.01, 1.0, out_size)[:, None]  # each output has a scale of its own
    bias = generator.normal(size=out_size).astype(np.float32)
    return LinearWeights(kernel, bias, **{"is_relu": False, "is_kept": False, "is_final": False, **flags})


def inputs(rows: int = 7) -> NDArray[np.float32]:
    return np.random.default_rng(6).uniform(-3.0, 3.0, (rows, IN_SIZE)).astype(np.float32)


def expected(layer: LinearWeights, x: NDArray[np.float32]) -> NDArray[np.float32]:
    y = x @ layer.kernel.T + layer.bias
    return np.maximum(y, 0.0) if layer.is_relu else y


@each_precision
@pytest.mark.parametrize("is_relu", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 33])
def test_it_computes_the_layer(precision: Precision, tolerance: float, is_relu: bool, rows: int) -> None:
    layer, x = weights(is_relu=is_relu), inputs(rows)
    y = tf.cast(pack(layer, precision, "it")(tf.constant(x)), tf.float32)
    assert y.shape == (rows, 50)
    np.testing.assert_allclose(y, expected(layer, x), atol=tolerance)


@each_precision
def test_a_residual_is_added_in_float32(precision: Precision, tolerance: float) -> None:
    layer, x, residual = weights(), inputs(), np.random.default_rng(7).normal(size=(7, 50)).astype(np.float32)
    y = pack(layer, precision, "it")(tf.constant(x), tf.constant(residual))
    assert y.dtype == tf.float32
    np.testing.assert_allclose(y, expected(layer, x) + residual, atol=tolerance)


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_a_static_layer_quantizes_its_outputs_for_the_one_that_reads_them(rows: int) -> None:
    first = weights(IN_SIZE, is_relu=True)._replace(reader="reader")
    second, x = weights(), inputs(rows)
    ranges = {"it": InputRange(-3.0, 3.0), "reader": InputRange(0.0, 6.0)}
    between = pack(first, Precision("int8", ranges), "it")(tf.constant(x))
    assert between.dtype == tf.uint8
    y = pack(second, Precision("int8", ranges), "reader")(between)
    np.testing.assert_allclose(y, expected(second, expected(first, x)), atol=0.1)


@each_precision
def test_outputs_of_small_weights_are_as_exact_relative_to_them(precision: Precision, tolerance: float) -> None:
    layer, x = weights()._replace(bias=np.zeros(50, np.float32)), inputs()
    y = np.array(tf.cast(pack(layer, precision, "it")(tf.constant(x)), tf.float32))
    scale = np.abs(layer.kernel).max(axis=1)
    np.testing.assert_allclose(y / scale, expected(layer, x) / scale, atol=5 * tolerance)


@each_precision
def test_a_row_does_not_depend_on_the_others(precision: Precision, tolerance: float) -> None:
    kernel, x = pack(weights(), precision, "it"), inputs()
    alone = kernel(tf.constant(x[:1]))
    x[1:] *= 100.0
    np.testing.assert_allclose(
        kernel(tf.constant(x))[:1], alone, rtol=1e-2 * (precision.dtype == "bfloat16"), atol=1e-6
    )


@each_precision
def test_a_row_of_zeros_gives_the_bias(precision: Precision, tolerance: float) -> None:
    layer = weights()
    y = tf.cast(pack(layer, precision, "it")(tf.zeros([2, IN_SIZE])), tf.float32)
    np.testing.assert_allclose(y, np.stack([layer.bias] * 2), atol=tolerance)


@each_precision
def test_an_output_without_weights_gives_its_bias(precision: Precision, tolerance: float) -> None:
    layer = weights()
    layer.kernel[3] = 0.0
    y = tf.cast(pack(layer, precision, "it")(tf.constant(inputs())), tf.float32)
    np.testing.assert_allclose(y[:, 3], np.full(7, layer.bias[3]), atol=tolerance)


def test_inputs_beyond_a_static_range_are_clipped() -> None:
    layer = weights()
    kernel = pack(layer, Precision("int8", {"it": InputRange(-1.0, 1.0)}), "it")
    np.testing.assert_allclose(kernel(tf.constant(inputs())), expected(layer, inputs().clip(-1, 1)), atol=0.05)


def test_a_static_range_without_negative_numbers_has_twice_the_resolution() -> None:
    layer, x = weights(), abs(inputs())
    layer = layer._replace(kernel=np.sign(layer.kernel))  # which int8 holds exactly
    errors = []
    for low in (-3.0, 0.0):
        y = pack(layer, Precision("int8", {"it": InputRange(low, 3.0)}), "it")(tf.constant(x))
        errors.append(float(np.abs(y - expected(layer, x)).mean()))
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_are_float32_and_what_is_kept_is_not_wider_than_the_rest(dtype: str) -> None:
    final = pack(weights(is_final=True), Precision(dtype), "it")(tf.constant(inputs()))
    kept = pack(weights(is_kept=True), Precision(dtype), "it")(tf.constant(inputs()))
    assert (final.dtype, kept.dtype) == (tf.float32, Precision(dtype).kept_dtype)


def test_what_it_reads_are_variables_of_that_size() -> None:
    def size(precision: Precision) -> int:
        return sum(
            variable.dtype.size * variable.shape.num_elements()
            for variable in pack(weights(), precision, "it").variables
        )

    full = size(Precision())
    assert size(Precision("bfloat16")) < 0.6 * full
    assert size(Precision("int8")) < 0.4 * full
