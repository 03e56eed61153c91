"""Decoding a recurrent model step by step: the cache is the recurrent state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

if TYPE_CHECKING:
    from model_export.decoding.step import Places
    from model_export.models.recurrent import CellState
    from model_export.models.rnn import Rnn


class RnnState(NamedTuple):
    """``K`` beams over ``L`` layers."""

    cells: tf.Tensor  # float32 [B, K, L * states * units]: side by side, so that a loop hands on one tensor
    memory: Any  # Memory of attention, which all beams share; () without attention
    places: Any  # Places.taken, int32 [N], and Places.index, int32 [B, K]; () without beams


class RnnStep:
    """``DecoderStep`` over the layers of an ``Rnn``."""

    def __init__(self, model: Rnn) -> None:
        self._model = model

    def start(self, source_ids: tf.Tensor, source_lengths: tf.Tensor, beam_size: int | tf.Tensor) -> RnnState:
        """See ``DecoderStep.start``."""
        states, memory = self._model.encode(source_ids, source_lengths)
        places = () if isinstance(beam_size, int) else (tf.zeros([0], tf.int32), tf.zeros([0, 0], tf.int32))
        return RnnState(_for_beams(_joined(states), beam_size), memory, places)

    def prefill(self, prefix_ids: tf.Tensor, prefix_lengths: tf.Tensor, state: RnnState) -> RnnState:
        """See ``DecoderStep.prefill``. All beams are alike before the first token, so one is read for all."""
        first = self._parted(state.cells[:, 0])
        _, states = self._model.read(prefix_ids, first, state.memory, prefix_lengths)
        return state._replace(cells=_for_beams(_joined(states), tf.shape(state.cells)[1]))

    def __call__(self, ids: tf.Tensor, positions: tf.Tensor, state: RnnState) -> tuple[tf.Tensor, RnnState]:
        """See ``DecoderStep.__call__``. The layers are run for places that are not taken too: beams share memory."""
        beams, width = tf.shape(state.cells)[1] if state.places else 1, state.cells.shape[-1]
        embedded = self._model.embedding(ids)  # [place, embedding]
        if state.places:
            embedded = tf.gather(embedded, tf.reshape(state.places[1], [-1]))  # [batch * beam, embedding]
        states = self._parted(tf.reshape(state.cells, [-1, width]))
        states, _ = self._model.decode_position(embedded, states, state.memory)
        hidden = tf.gather(states[-1][0], state.places[0]) if state.places else states[-1][0]  # [place, units]
        cells = tf.reshape(_joined(states), [-1, beams, width])
        return self._model.output_projection(hidden), state._replace(cells=cells)

    def reorder(self, state: RnnState, parents: tf.Tensor) -> RnnState:
        """See ``DecoderStep.reorder``."""
        return state._replace(cells=tf.gather(state.cells, parents, batch_dims=1))

    def select(self, state: RnnState, rows: tf.Tensor) -> RnnState:
        """See ``DecoderStep.select``."""
        cells, memory = tf.nest.map_structure(lambda part: tf.gather(part, rows), (state.cells, state.memory))
        return state._replace(cells=cells, memory=memory)

    def grow(self, state: RnnState, capacity: tf.Tensor, places: Places | None) -> RnnState:
        """See ``DecoderStep.grow``: a recurrent state has room for any number of positions."""
        return state if places is None else state._replace(places=(places.taken, places.index))

    def _parted(self, cells: tf.Tensor) -> tuple[CellState, ...]:
        """[N, L * states * units] -> the states of each layer, each [N, units]."""
        layers = self._model.decoder_cells
        count = layers[0].recurrence.num_states
        parts = tf.split(cells, len(layers) * count, axis=-1)
        return tuple(tuple(parts[first : first + count]) for first in range(0, len(parts), count))


def _joined(states: tuple[CellState, ...]) -> tf.Tensor:
    """The states of each layer, each [N, units] -> [N, L * states * units]."""
    return tf.concat([part for state in states for part in state], axis=-1)


def _for_beams(cells: tf.Tensor, beam_size: int | tf.Tensor) -> tf.Tensor:
    """[B, W] -> [B, K, W]."""
    return tf.repeat(cells[:, tf.newaxis], beam_size, axis=1)
