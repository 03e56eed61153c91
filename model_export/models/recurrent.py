"""Recurrent cells and the one scan over time that encoder, decoder and prefix reading share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from model_export.models.layers import Linear

CellState = tuple[tf.Tensor, ...]
"""Hidden state first, then what else the cell carries (the LSTM's memory)."""

_CELLS: dict[str, type[keras.layers.Layer]] = {
    "simple_rnn": keras.layers.SimpleRNNCell,
    "gru": keras.layers.GRUCell,
    "lstm": keras.layers.LSTMCell,
}


class RecurrentCell(keras.layers.Layer):
    """One step of SimpleRNN, GRU (Cho et al. 2014, https://arxiv.org/abs/1406.1078) or LSTM (Hochreiter and
    Schmidhuber 1997), for inputs with any number of leading axes."""

    def __init__(self, kind: str, in_size: int, units: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.units = units
        with keras.name_scope(self.name):
            self.cell = _CELLS[kind](units, name="cell")
            self.cell.build((None, in_size))
        self.num_states = 2 if kind == "lstm" else 1
        self.built = True

    def zero_state(self, batch: tf.Tensor) -> CellState:
        """States of ``batch`` rows before anything was read, each [B, units]."""
        return (tf.zeros([batch, self.units]),) * self.num_states

    def step(self, x: tf.Tensor, state: CellState) -> CellState:
        """``x`` [..., in_size] and states [..., units] -> new states; the first is also the output."""
        flat_state = [tf.reshape(part, [-1, self.units]) for part in state]
        _, new = self.cell(tf.reshape(x, [-1, x.shape[-1]]), flat_state)
        shape = tf.shape(state[0])
        return tuple(tf.ensure_shape(tf.reshape(part, shape), state[0].shape) for part in new)


class AdditiveAttention(keras.layers.Layer):
    """``softmax(v tanh(W q + U m))`` over the memory m (Bahdanau et al. 2015, https://arxiv.org/abs/1409.0473)."""

    def __init__(self, units: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        with keras.name_scope(self.name):
            self.query_projection = Linear(units, units, name="query")
            self.key_projection = Linear(units, units, name="key")
            self.score_projection = Linear(units, 1, name="score")
        self.built = True

    def call(
        self, query: tf.Tensor, memory: tf.Tensor, keys: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """``query`` [B, K, units], ``memory`` and its ``keys`` [B, S, units], ``bias`` [B, 1, S] -> what is read of the
        memory [B, K, units], and the weights [B, K, S], whose sum over the source is 1."""
        mixed = tf.tanh(
            self.query_projection(query)[:, :, None, :] + keys[:, None, :, :]
        )  # [batch, beam, source, units]
        weights = tf.nn.softmax(self.score_projection(mixed)[..., 0] + bias)  # [batch, beam, source]
        return tf.matmul(weights, memory), weights


def scan(
    step: Callable[[tf.Tensor, Any], tuple[tf.Tensor, Any]],
    inputs: tf.Tensor,
    state: Any,
    lengths: tf.Tensor | None = None,
    reverse: bool = False,
) -> tuple[tf.Tensor, Any]:
    """Read ``inputs`` [B, T, in] along time: outputs [B, T, out] and the last state.

    ``step`` takes [B, in] and a state whose every tensor is [B, ...], and returns an output [B, out] and a state.
    From position ``lengths`` [B] on the state stays as it is (and the outputs mean nothing). ``reverse`` reads from
    the last position to the first; outputs stand where their inputs stood.
    """
    time = tf.shape(inputs)[1]
    source = tf.TensorArray(inputs.dtype, size=time).unstack(tf.transpose(inputs, [1, 0, 2]))
    target = tf.TensorArray(inputs.dtype, size=time)

    def body(turn: tf.Tensor, state: Any, target: tf.TensorArray) -> tuple[tf.Tensor, Any, tf.TensorArray]:
        position = time - 1 - turn if reverse else turn
        output, new = step(source.read(position), state)
        if lengths is not None:
            is_there = position < lengths  # [batch]
            new = tf.nest.map_structure(lambda a, b: tf.where(_like(is_there, a), a, b), new, state)
        return turn + 1, new, target.write(position, output)

    _, state, target = tf.while_loop(lambda turn, *_: turn < time, body, (tf.constant(0), state, target))
    return tf.transpose(target.stack(), [1, 0, 2]), state


def _like(mask: tf.Tensor, field: tf.Tensor) -> tf.Tensor:
    """[B] -> [B, 1, ...] of the rank of ``field``."""
    return tf.reshape(mask, [-1] + [1] * (field.shape.rank - 1))
