"""Operations of TensorFlow that it gives no Python name, or whose defaults are slow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2


def quantized(x: tf.Tensor, low: tf.Tensor, high: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Of ties rounded to even, TensorFlow would make oneDNN's reorder, which costs ten times as much for few rows."""
    x = tf.cast(x, tf.float32)
    options = {"mode": "SCALED", "round_mode": "HALF_AWAY_FROM_ZERO"}
    return tf.raw_ops.QuantizeV2(input=x, min_range=low, max_range=high, T=dtype, **options).output


def product(
    name: str, inputs: Sequence[tf.Tensor], dtypes: Sequence[tf.DType], attributes: Mapping[str, Any]
) -> tf.Tensor:
    """[N, out] of an operation that TensorFlow gives no Python name; ``inputs`` begin with [N, in] and [in, out]."""
    if tf.executing_eagerly():  # such an operation exists in graphs alone
        in_graph = tf.function(product, autograph=False, reduce_retracing=True)
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
