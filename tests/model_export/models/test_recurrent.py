"""Recurrent cells beside Keras's own, and the layer that reads in both directions beside two cells that read alone."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from model_export.models.layers import Linear
from model_export.models.recurrent import (
    RECURRENCES,
    BidirectionalLayer,
    RecurrentCell,
    SplitCell,
    mirrored_places,
    scan,
)

IN_SIZE, UNITS = 5, 4
KERAS_CELLS = {
    "simple_rnn": keras.layers.SimpleRNNCell,
    "gru": keras.layers.GRUCell,
    "lstm": keras.layers.LSTMCell,
}
KERAS_GATES = {"simple_rnn": [0], "gru": [0, 1, 2], "lstm": [0, 1, 3, 2]}
"""Where our gates are among Keras's."""
CELLS = [
    pytest.param(cell, kind, id=f"{cell.__name__}-{kind}")
    for cell in (RecurrentCell, SplitCell)
    for kind in RECURRENCES
    if cell is SplitCell or RECURRENCES[kind].is_sum
]


def random_cell(cell: type[RecurrentCell], kind: str) -> RecurrentCell:
    made = cell(kind, IN_SIZE, UNITS, name="cell")
    generator = np.random.default_rng(3)
    for weight in made.weights:
        weight.assign(generator.normal(size=weight.shape))
    return made


def in_keras(ours: RecurrentCell, kind: str) -> keras.layers.Layer:
    """Keras's cell with the weights of ours."""
    linears = {layer.name: layer for layer in ours._flatten_layers() if isinstance(layer, Linear)}
    if "input_and_hidden" in linears:
        joint = linears["input_and_hidden"]
        of_input, of_hidden = np.split(joint.kernel.numpy(), [IN_SIZE], axis=1)
        biases = [joint.bias.numpy()]
    else:
        of_input, of_hidden = (linears[name].kernel.numpy() for name in ("input", "hidden"))
        biases = [linears[name].bias.numpy() for name in ("input", "hidden") if linears[name].bias is not None]

    def reordered(columns: NDArray[np.float32]) -> NDArray[np.float32]:
        gates = np.split(columns, RECURRENCES[kind].num_gates, axis=-1)
        return np.concatenate([gates[place] for place in np.argsort(KERAS_GATES[kind])], axis=-1)

    theirs = KERAS_CELLS[kind](UNITS)
    theirs.build((None, IN_SIZE))
    bias = np.stack([reordered(part) for part in biases])
    theirs.set_weights([reordered(of_input.T), reordered(of_hidden.T), bias if kind == "gru" else bias[0]])
    return theirs


@pytest.mark.parametrize(("cell", "kind"), CELLS)
def test_a_cell_computes_what_the_one_of_keras_does(cell: type[RecurrentCell], kind: str) -> None:
    ours = random_cell(cell, kind)
    theirs = in_keras(ours, kind)
    inputs = np.random.default_rng(4).normal(size=[6, 3, IN_SIZE]).astype(np.float32)
    state = ours.zero_state([3])
    expected = list(state)
    for x in inputs:
        state = ours.step(tf.constant(x), state)
        _, expected = theirs(tf.constant(x), expected)
        for own, other in zip(state, expected, strict=True):
            np.testing.assert_allclose(own, other, atol=1e-5)


@pytest.mark.parametrize(("cell", "kind"), CELLS)
def test_a_cell_begins_as_the_one_of_keras_does(cell: type[RecurrentCell], kind: str) -> None:
    keras.utils.set_random_seed(5)
    fresh = cell(kind, IN_SIZE, UNITS, name="cell")
    theirs = in_keras(fresh, kind)
    reference = KERAS_CELLS[kind](UNITS)
    reference.build((None, IN_SIZE))
    assert fresh.count_params() == reference.count_params()
    kernel, recurrent, bias = theirs.get_weights()
    np.testing.assert_array_equal(bias, reference.get_weights()[2])
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(UNITS), atol=1e-5)
    limit = (6 / (IN_SIZE + kernel.shape[1])) ** 0.5
    assert 0.7 * limit < np.abs(kernel).max() <= limit


@pytest.mark.parametrize("kind", RECURRENCES)
def test_both_directions_read_as_each_would_alone(kind: str) -> None:
    layer = BidirectionalLayer(kind, IN_SIZE, 2 * UNITS, name="both")
    generator = np.random.default_rng(6)
    for weight in layer.weights:
        weight.assign(generator.normal(size=weight.shape))
    lengths, size = np.array([4, 1, 6], np.int32), 6
    x = generator.normal(size=[size, 3, IN_SIZE]).astype(np.float32)
    outputs, state = layer(tf.constant(x), tf.constant(lengths), mirrored_places(tf.constant(lengths), size))
    for row, length in enumerate(lengths):
        alone = tf.constant(x[:length, row : row + 1])
        for cell, columns, order in (
            (layer.forward, slice(UNITS), 1),
            (layer.backward, slice(UNITS, None), -1),
        ):
            own = cell.zero_state([1])
            read = np.zeros([length, UNITS], np.float32)
            for place in range(length)[::order]:
                own = cell.step(alone[place], own)
                read[place] = own[0][0]
            np.testing.assert_allclose(outputs[:length, row, columns], read, atol=1e-5)
            for both, part in zip(state, own, strict=True):
                np.testing.assert_allclose(both[row, columns], part[0], atol=1e-5)


def test_a_scan_keeps_the_state_of_rows_that_have_ended() -> None:
    def add(x: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return state + x, state + x

    inputs = tf.reshape(tf.range(1.0, 9.0), [4, 2, 1])  # 1, 3, 5, 7 and 2, 4, 6, 8
    outputs, state = scan(add, inputs, tf.zeros([2, 1]))
    assert outputs[:, :, 0].numpy().tolist() == [[1, 2], [4, 6], [9, 12], [16, 20]]
    assert state.numpy().tolist() == [[16], [20]]
    _, state = scan(add, inputs, tf.zeros([2, 1]), tf.constant([2, 0]))
    assert state.numpy().tolist() == [[4], [0]]
