"""SavedModels that load in no time, for tests that look at the protocol and not at text."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf


class Toy(tf.Module):
    """Its answers tell which version gave them."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = tf.Variable(factor)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def times(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": self.factor * x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def total(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """An output without a batch dimension."""
        return {"y": tf.reduce_sum(self.factor * x)}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, "ids")])
    def sums(self, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.reduce_sum(ids, axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def pair(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"x": tf.identity(x), "y": self.factor * x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def echo(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": tf.identity(text)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "steps")])
    def count(self, steps: tf.Tensor) -> dict[str, tf.Tensor]:
        """As slow as is asked for: a loop, which can be cancelled."""
        counted = tf.while_loop(lambda i: i < steps[0], lambda i: [i + 1], [tf.constant(0)], parallel_iterations=1)
        return {"counted": tf.fill([tf.size(steps)], counted[0])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def check(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x >= 0), ["negative"])]):
            return {"y": tf.identity(x)}


def endless() -> tf.Tensor:
    """Steps for ``count`` that no test waits for."""
    return tf.make_tensor_proto([2**31 - 1])


def export_toy(root: Path, name: str = "toy", version: int = 1) -> Path:
    """Write ``<root>/<name>/<version>``, whose factor is its version."""
    folder = root / name / str(version)
    toy = Toy(float(version))
    tf.saved_model.save(
        toy,
        str(folder),
        signatures={
            "serving_default": toy.times,
            "pair": toy.pair,
            "total": toy.total,
            "sums": toy.sums,
            "echo": toy.echo,
            "count": toy.count,
            "check": toy.check,
        },
    )
    return folder
