"""The protocol between search and model: a search never asks which model it drives, nor the model which search.

Notation: ``B`` rows, ``K`` beams, ``S`` source tokens, ``P`` prefix tokens, ``C`` capacity in positions,
``V`` vocabulary.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import tensorflow as tf

State = TypeVar("State")
"""Any structure that ``tf.nest`` knows; each implementation uses a ``NamedTuple`` with a shape on every field."""


class DecoderStep(Protocol[State]):
    """One model, ready to be decoded step by step."""

    def start(self, source_ids: tf.Tensor, source_lengths: tf.Tensor, beam_size: int | tf.Tensor) -> State:
        """Encode once. ``source_ids`` int32 [B,S], ``source_lengths`` int32 [B]; ids past a length are ignored.

        ``beam_size`` is a Python int when it is known while tracing (1 spares the work of beams).
        The state begins with no room for positions: ``grow`` before the first call.
        """
        ...

    def prefill(self, prefix_ids: tf.Tensor, prefix_lengths: tf.Tensor, state: State) -> State:
        """Read the first ``prefix_lengths`` [B] tokens of ``prefix_ids`` int32 [B,P] in parallel; a length may be 0.

        These are all known tokens but the last, which is the ``ids`` of the first call.
        """
        ...

    def __call__(self, ids: tf.Tensor, positions: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        """Read the token ``ids`` int32 [B,K] that stands at ``positions`` int32 [B]: logits float32 [B,K,V], state."""
        ...

    def reorder(self, state: State, parents: tf.Tensor) -> State:
        """Beam ``k`` goes on from beam ``parents[b, k]``; int32 [B,K]."""
        ...

    def select(self, state: State, rows: tf.Tensor) -> State:
        """Keep the rows ``rows`` int32 [N], in that order."""
        ...

    def grow(self, state: State, capacity: tf.Tensor) -> State:
        """Room for ``capacity`` (int32 scalar) calls since ``start``; never shrinks."""
        ...
