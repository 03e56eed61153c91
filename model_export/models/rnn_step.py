"""Decoding a recurrent model step by step: the cache is the recurrent state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

if TYPE_CHECKING:
    from model_export.models.recurrent import CellState
    from model_export.models.rnn import Rnn


class RnnState(NamedTuple):
    """``K`` beams over ``L`` layers."""

    cells: tuple[CellState, ...]  # L times the cell's states, each float32 [B, K, units]
    memory: Any  # rnn.Memory, which all beams share; () without attention


class RnnStep:
    """``DecoderStep`` over the layers of an ``Rnn``."""

    def __init__(self, model: Rnn) -> None:
        self._model = model

    def start(self, source_ids: tf.Tensor, source_lengths: tf.Tensor, beam_size: int | tf.Tensor) -> RnnState:
        """See ``DecoderStep.start``."""
        states, memory = self._model.encode(source_ids, source_lengths)
        return RnnState(_for_beams(states, beam_size), memory)

    def prefill(self, prefix_ids: tf.Tensor, prefix_lengths: tf.Tensor, state: RnnState) -> RnnState:
        """See ``DecoderStep.prefill``. All beams are alike before the first token, so one is read for all."""
        beams = tf.shape(state.cells[0][0])[1]
        first = tf.nest.map_structure(lambda part: part[:, :1], state.cells)
        _, read = self._model.read(prefix_ids, first, state.memory, prefix_lengths)
        return state._replace(cells=tf.nest.map_structure(lambda part: tf.repeat(part, beams, axis=1), read))

    def __call__(self, ids: tf.Tensor, positions: tf.Tensor, state: RnnState) -> tuple[tf.Tensor, RnnState]:
        """See ``DecoderStep.__call__``."""
        cells, _ = self._model.decode_position(self._model.embedding(ids), state.cells, state.memory)
        return self._model.output_projection(cells[-1][0]), state._replace(cells=cells)

    def reorder(self, state: RnnState, parents: tf.Tensor) -> RnnState:
        """See ``DecoderStep.reorder``."""
        return state._replace(
            cells=tf.nest.map_structure(lambda part: tf.gather(part, parents, batch_dims=1), state.cells)
        )

    def select(self, state: RnnState, rows: tf.Tensor) -> RnnState:
        """See ``DecoderStep.select``."""
        selected: RnnState = tf.nest.map_structure(lambda part: tf.gather(part, rows), state)
        return selected

    def grow(self, state: RnnState, capacity: tf.Tensor) -> RnnState:
        """See ``DecoderStep.grow``: a recurrent state has room for any number of positions."""
        return state


def _for_beams(states: tuple[CellState, ...], beam_size: int | tf.Tensor) -> tuple[CellState, ...]:
    """Each [B, units] -> [B, K, units]."""
    copied: tuple[CellState, ...] = tf.nest.map_structure(
        lambda part: tf.repeat(part[:, None, :], beam_size, axis=1), states
    )
    return copied
