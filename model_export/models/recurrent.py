"""Recurrent cells, attention over what was read, and the one scan over time that encoder and decoder share."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Final, NamedTuple

import keras
import tensorflow as tf

from model_export.models.layers import Initializer, Linear

CellState = tuple[tf.Tensor, ...]
"""The output first, then what else the cell remembers (the LSTM's memory); each float32 [..., units]."""


# --- the recurrences --------------------------------------------------------------------------------------------------


def _simple_rnn(state: CellState, *products: tf.Tensor) -> CellState:
    """``h' = tanh(W x + U h + b)`` (Elman 1990, https://doi.org/10.1207/s15516709cog1402_1)."""
    return (tf.tanh(reduce(operator.add, products)),)


def _gru(state: CellState, of_input: tf.Tensor, of_hidden: tf.Tensor) -> CellState:
    """Gated recurrent unit (Cho et al. 2014, https://arxiv.org/abs/1406.1078) as cuDNN and Keras (``reset_after``) have
    it: the reset gate acts on a product with a bias of its own. Update gate, reset gate, candidate::

        z = sigmoid(Wz x + bz + Uz h + cz)      r = sigmoid(Wr x + br + Ur h + cr)
        n = tanh(Wn x + bn + r (Un h + cn))     h' = z h + (1 - z) n
    """
    (hidden,) = state
    units = hidden.shape[-1]
    gates_of_input, candidate_of_input = tf.split(of_input, [2 * units, units], axis=-1)
    gates_of_hidden, candidate_of_hidden = tf.split(of_hidden, [2 * units, units], axis=-1)
    update, reset = tf.split(tf.sigmoid(gates_of_input + gates_of_hidden), 2, axis=-1)
    candidate = tf.tanh(candidate_of_input + reset * candidate_of_hidden)
    return (candidate + update * (hidden - candidate),)


def _lstm(state: CellState, *products: tf.Tensor) -> CellState:
    """Long short-term memory (Hochreiter and Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735) with forget
    gates (Gers et al. 2000) and without peepholes. Input gate, forget gate, output gate, candidate::

        i, f, o = sigmoid(W x + U h + b)        g = tanh(Wg x + Ug h + bg)
        c' = f c + i g                          h' = o tanh(c')
    """
    _, memory = state
    units = memory.shape[-1]
    gates, candidate = tf.split(reduce(operator.add, products), [3 * units, units], axis=-1)  # one sigmoid for three
    enter, keep, show = tf.split(tf.sigmoid(gates), 3, axis=-1)
    memory = keep * memory + enter * tf.tanh(candidate)
    return show * tf.tanh(memory), memory


class Recurrence(NamedTuple):
    """One kind of cell: what follows from ``W x + b`` and ``U h + c``, where ``h`` is the output before."""

    num_gates: int  # each product has so many times ``units`` columns, gate after gate in the formula's order
    num_states: int
    is_sum: bool  # only the sum of the products matters: ``c`` is none, and one product over [x, h] will do
    advance: Callable[..., CellState]  # (state, product over [x, h]) or (state, product with x, product with h)


RECURRENCES: Final = {
    "simple_rnn": Recurrence(1, 1, True, _simple_rnn),
    "gru": Recurrence(3, 1, False, _gru),
    "lstm": Recurrence(4, 2, True, _lstm),
}


# --- their weights ----------------------------------------------------------------------------------------------------


class RecurrentCell(keras.layers.Layer):
    """One recurrence with weights of its own, for inputs that come one at a time: a product in each step.

    Kernels begin as Keras's do: Glorot uniform for ``x``, orthogonal (Saxe et al. 2014,
    https://arxiv.org/abs/1312.6120) for ``h``, and forget gates open (Jozefowicz et al. 2015).
    """

    def __init__(self, kind: str, in_size: int, units: int, **kwargs: object) -> None:
        super().__init__(autocast=False, **kwargs)
        self.units = units
        self.recurrence = RECURRENCES[kind]
        self._build_projections(in_size, "zeros" if kind != "lstm" else _forget_gates_open)
        self.built = True

    def _build_projections(self, in_size: int, bias_initializer: Initializer) -> None:
        kernel = _side_by_side(in_size)
        sizes = in_size + self.units, self.recurrence.num_gates * self.units
        with keras.name_scope(self.name):
            self._joint = Linear(
                *sizes, kernel_initializer=kernel, bias_initializer=bias_initializer, name="input_and_hidden"
            )

    def zero_state(self, shape: Sequence[int | tf.Tensor]) -> CellState:
        """States before anything was read, each [*shape, units]."""
        return (tf.zeros([*shape, self.units]),) * self.recurrence.num_states

    def step(self, x: tf.Tensor, state: CellState) -> CellState:
        """``x`` [N, in_size] and states [N, units] -> new states; the first is also the output."""
        product = self._joint(tf.concat([x, state[0]], axis=-1))
        return self.recurrence.advance(state, tf.cast(product, tf.float32))


class SplitCell(RecurrentCell):
    """A cell with a product for ``x``, which may read any number of positions ahead of the steps, and one for ``h``."""

    def _build_projections(self, in_size: int, bias_initializer: Initializer) -> None:
        out_size = self.recurrence.num_gates * self.units
        with keras.name_scope(self.name):
            self._input = Linear(in_size, out_size, bias_initializer=bias_initializer, name="input")
            self._hidden = Linear(
                self.units,
                out_size,
                use_bias=not self.recurrence.is_sum,
                kernel_initializer=_orthogonal,
                name="hidden",
            )

    def of_input(self, x: tf.Tensor) -> tf.Tensor:
        """[..., in_size] -> float32 [..., gates * units]."""
        return tf.cast(self._input(x), tf.float32)

    def of_hidden(self, hidden: tf.Tensor) -> tf.Tensor:
        """[..., units] -> float32 [..., gates * units]."""
        return tf.cast(self._hidden(hidden), tf.float32)

    def step(self, x: tf.Tensor, state: CellState) -> CellState:
        """See ``RecurrentCell.step``."""
        return self.recurrence.advance(state, self.of_input(x), self.of_hidden(state[0]))


def decoder_cell(kind: str, in_size: int, units: int, name: str) -> RecurrentCell:
    """The cell that takes the fewest products in a step."""
    return (RecurrentCell if RECURRENCES[kind].is_sum else SplitCell)(kind, in_size, units, name=name)


def _orthogonal(shape: tuple[int, int], dtype: Any = None) -> tf.Tensor:
    """[out, in], drawn as Keras does: [in, out]."""
    return tf.transpose(keras.initializers.Orthogonal()(shape[::-1], dtype))


def _side_by_side(in_size: int) -> Initializer:
    def initializer(shape: tuple[int, int], dtype: Any = None) -> tf.Tensor:
        out_size, both = shape
        of_input = keras.initializers.GlorotUniform()((out_size, in_size), dtype)
        return tf.concat([of_input, _orthogonal((out_size, both - in_size), dtype)], axis=1)

    return initializer


def _forget_gates_open(shape: tuple[int], dtype: Any = None) -> tf.Tensor:
    units = shape[0] // RECURRENCES["lstm"].num_gates
    return tf.repeat(tf.constant([0.0, 1.0, 0.0, 0.0], dtype or tf.float32), units)


# --- over time --------------------------------------------------------------------------------------------------------


class BidirectionalLayer(keras.layers.Layer):
    """Two cells of half the width, one for each direction (Schuster and Paliwal 1997), which step side by side."""

    def __init__(self, kind: str, in_size: int, units: int, **kwargs: object) -> None:
        super().__init__(autocast=False, **kwargs)
        with keras.name_scope(self.name):
            self.forward = SplitCell(kind, in_size, units // 2, name="forward")
            self.backward = SplitCell(kind, in_size, units // 2, name="backward")
        self.built = True

    def call(self, x: tf.Tensor, lengths: tf.Tensor, mirror: tf.Tensor) -> tuple[tf.Tensor, CellState]:
        """``x`` [S, B, in], ``mirror`` of ``mirrored_places`` -> outputs [S, B, units], and final states of both
        directions side by side [B, units]."""
        cells = self.forward, self.backward
        inputs = [self.forward.of_input(x), self.backward.of_input(_rearrange(x, mirror))]

        def step(of_input: tf.Tensor, state: CellState) -> tuple[tf.Tensor, CellState]:
            hidden = zip(cells, tf.unstack(state[0]), strict=True)
            of_hidden = tf.stack([cell.of_hidden(own) for cell, own in hidden])  # [direction, batch, columns]
            new = self.forward.recurrence.advance(state, of_input, of_hidden)
            return new[0], new

        first = self.forward.zero_state([2, tf.shape(x)[1]])
        outputs, state = scan(step, tf.stack(inputs, axis=1), first, lengths)  # [source, direction, batch, units]
        forward, backward = tf.unstack(outputs, axis=1)
        sides = [tf.concat(tf.unstack(part), axis=-1) for part in state]
        return tf.concat([forward, _rearrange(backward, mirror)], axis=-1), tuple(sides)


def mirrored_places(lengths: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Where in [size * B] what stands at each place would stand if every row were read from its end, int32 [size, B];
    what is past ``lengths`` int32 [B] stays."""
    time = tf.range(size)[:, tf.newaxis]
    opposite = tf.where(time < lengths, lengths - 1 - time, time)  # [size, batch]
    rows = tf.shape(lengths)[0]
    return opposite * rows + tf.range(rows)


def _rearrange(x: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """``x`` [T, B, width] with at each place what is at ``places`` [T, B]."""
    return tf.gather(tf.reshape(x, [-1, x.shape[-1]]), places)


def scan(
    step: Callable[[tf.Tensor, Any], tuple[tf.Tensor, Any]],
    inputs: tf.Tensor,
    state: Any,
    lengths: tf.Tensor | None = None,
) -> tuple[tf.Tensor, Any]:
    """Read ``inputs`` [T, ...] one after the other: float32 outputs [T, ...] and the last state.

    ``step`` takes one input and a state whose every tensor is [..., B, width], and returns an output and a state.
    From position ``lengths`` [B] on the state stays as it is, and the outputs mean nothing.
    """
    time = tf.shape(inputs)[0]
    source = tf.TensorArray(inputs.dtype, size=time).unstack(inputs)
    target = tf.TensorArray(tf.float32, size=time)
    ends = None if lengths is None else lengths[:, tf.newaxis]  # [batch, 1]

    def body(turn: tf.Tensor, state: Any, target: tf.TensorArray) -> tuple[tf.Tensor, Any, tf.TensorArray]:
        output, new = step(source.read(turn), state)
        if ends is not None:
            is_there = turn < ends  # [batch, 1]
            new = tf.nest.map_structure(lambda a, b: tf.where(is_there, a, b), new, state)
        return turn + 1, new, target.write(turn, output)

    _, state, target = tf.while_loop(lambda turn, *_: turn < time, body, (tf.constant(0), state, target))
    return target.stack(), state
