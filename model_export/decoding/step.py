"""The protocol between search and model: a search never asks which model it drives, nor the model which search.

Notation: ``B`` rows, ``K`` places for beams, ``N`` of the ``B * K`` that are taken, ``S`` source tokens, ``P`` prefix
tokens, ``C`` capacity in positions, ``V`` vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

import tensorflow as tf

State = TypeVar("State")
"""Any structure that ``tf.nest`` knows; each implementation uses a ``NamedTuple`` with a shape on every field."""


class Places(NamedTuple):
    """``N`` of the ``B * K`` places are taken: a model computes nothing for the others."""

    taken: tf.Tensor  # int32 [N]: which they are, counted through all rows
    rows: tf.Tensor  # int32 [N]: whose each is
    index: tf.Tensor  # int32 [B, K]: which of the N stands here; where none does, some other


class DecoderStep(Protocol[State]):
    """One model, ready to be decoded step by step."""

    def start(self, source_ids: tf.Tensor, source_lengths: tf.Tensor, beam_size: int | tf.Tensor) -> State:
        """Encode once. ``source_ids`` int32 [B,S], ``source_lengths`` int32 [B]; ids past a length are ignored.

        ``beam_size`` is ``K``: a Python 1 for searches without beams, which are spared the work of them.
        The state begins with no room for positions: ``grow`` before the first call.
        """
        ...

    def prefill(self, prefix_ids: tf.Tensor, prefix_lengths: tf.Tensor, state: State) -> State:
        """Read the first ``prefix_lengths`` [B] tokens of ``prefix_ids`` int32 [B,P] in parallel; a length may be 0.

        These are all known tokens but the last, which is the ``ids`` of the first call.
        """
        ...

    def __call__(self, ids: tf.Tensor, positions: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        """Read the tokens ``ids`` int32 [N] that stand at ``positions`` int32 [N]: logits float32 [N,V], state."""
        ...

    def reorder(self, state: State, parents: tf.Tensor) -> State:
        """Beam ``k`` goes on from beam ``parents[b, k]``; int32 [B,K]."""
        ...

    def select(self, state: State, rows: tf.Tensor) -> State:
        """Keep the rows ``rows`` int32 [R], in that order; ``grow`` before the next call."""
        ...

    def grow(self, state: State, capacity: tf.Tensor, places: Places | None) -> State:
        """Room for ``capacity`` (int32 scalar) calls since ``start``; never shrinks.

        ``places`` are taken in the calls to come; None: searches without beams, where row n is place n.
        """
        ...
