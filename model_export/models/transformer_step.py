"""Decoding a Transformer step by step with a key/value cache that beams share.

Beam search never moves the cache. At each call every beam appends one *slot*; ``ancestors`` says which slot holds a
beam's own token at each position, so going on from another beam edits that small table, and the table becomes the
attention mask. A forced prefix lies in the first positions of the same cache, in slot 0: every beam descends from it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import tensorflow as tf

from model_export.models.layers import MASKED, padding_bias

if TYPE_CHECKING:
    from model_export.models.attention import SelfAttention
    from model_export.models.transformer import Transformer


class TransformerState(NamedTuple):
    """``L`` layers, ``H`` heads of size ``Dh``, ``K`` beams, ``C`` positions of capacity (prefix included)."""

    keys: tuple[tf.Tensor, ...]  # L times float32 [B, H, C*K, Dh]; slot k of position c at c*K + k
    values: tuple[tf.Tensor, ...]  # the same
    ancestors: tf.Tensor  # int32 [B, K, C]: slot of this beam's token at each position, -1 where there is none
    memory_keys: tuple[tf.Tensor, ...]  # L times float32 [B, H, S, Dh]
    memory_values: tuple[tf.Tensor, ...]  # the same
    memory_bias: tf.Tensor  # float32 [B, 1, 1, S]
    prefix_size: tf.Tensor  # int32 []: positions that the prefix takes
    used: tf.Tensor  # int32 []: positions in use, prefix included


class TransformerStep:
    """``DecoderStep`` over the layers of a ``Transformer``."""

    def __init__(self, model: Transformer) -> None:
        self._model = model

    def start(self, source_ids: tf.Tensor, source_lengths: tf.Tensor, beam_size: int | tf.Tensor) -> TransformerState:
        """See ``DecoderStep.start``."""
        memory, bias = self._model.encode(source_ids, source_lengths)
        projected = [layer.cross_attention.project_memory(memory) for layer in self._model.decoder_layers]
        # No two caches begin as the same tensor: a graph would make one buffer of them, and ``_write`` writes in place.
        return TransformerState(
            keys=tuple(key[:, :, :0] for key, _ in projected),
            values=tuple(value[:, :, :0] for _, value in projected),
            ancestors=tf.zeros([tf.shape(source_ids)[0], beam_size, 0], tf.int32),
            memory_keys=tuple(key for key, _ in projected),
            memory_values=tuple(value for _, value in projected),
            memory_bias=bias,
            prefix_size=tf.constant(0),
            used=tf.constant(0),
        )

    def prefill(self, prefix_ids: tf.Tensor, prefix_lengths: tf.Tensor, state: TransformerState) -> TransformerState:
        """See ``DecoderStep.prefill``."""
        size = tf.shape(prefix_ids)[1]
        beams = tf.shape(state.ancestors)[1]
        bias = padding_bias(prefix_lengths, size)[:, None, None, :]  # [batch, 1, 1, prefix]
        bias += MASKED * (1.0 - tf.linalg.band_part(tf.ones([size, size]), -1, 0))
        x = self._model.embed_target(prefix_ids, tf.range(size))
        keys, values = [], []
        for index, layer in enumerate(self._model.decoder_layers):

            def over_self(y: tf.Tensor, attention: SelfAttention = layer.self_attention) -> tf.Tensor:
                query, key, value = attention.project(y)
                keys.append(_spread(key, beams))
                values.append(_spread(value, beams))
                return attention.attend(query, key, value, bias)

            x = layer(x, over_self=over_self, over_memory=self._over_memory(index, state))
        known = tf.where(tf.sequence_mask(prefix_lengths, size), 0, -1)  # [batch, prefix]
        return state._replace(
            keys=tuple(keys),
            values=tuple(values),
            ancestors=tf.repeat(known[:, None, :], beams, axis=1),
            prefix_size=size,
            used=size,
        )

    def __call__(
        self, ids: tf.Tensor, positions: tf.Tensor, state: TransformerState
    ) -> tuple[tf.Tensor, TransformerState]:
        """See ``DecoderStep.__call__``."""
        ancestors = _with_own_slot(state.ancestors, state.used)
        beams = tf.shape(ids)[1]
        chosen = tf.one_hot(ancestors, beams, on_value=0.0, off_value=MASKED)  # [batch, beam, capacity, slot]
        shape = tf.shape(chosen)
        bias = tf.reshape(chosen, [shape[0], 1, beams, shape[2] * beams])
        slots = _slot_rows(state, beams)
        # A row that is done is asked on until its batch-mates are, past the table too; its logits do not count then.
        positions = tf.minimum(positions, self._model.target_positions.shape[0] - 1)
        x = self._model.embed_target(ids, positions[:, None])  # [batch, beam, width]
        keys, values = [], []
        for index, layer in enumerate(self._model.decoder_layers):

            def over_self(
                y: tf.Tensor, index: int = index, attention: SelfAttention = layer.self_attention
            ) -> tf.Tensor:
                query, key, value = attention.project(y)
                keys.append(_write(state.keys[index], slots, key))
                values.append(_write(state.values[index], slots, value))
                return attention.attend(query, keys[-1], values[-1], bias)

            x = layer(x, over_self=over_self, over_memory=self._over_memory(index, state))
        logits = self._model.output_projection(self._model.decoder_norm(x))  # [batch, beam, vocabulary]
        return logits, state._replace(keys=tuple(keys), values=tuple(values), ancestors=ancestors, used=state.used + 1)

    def reorder(self, state: TransformerState, parents: tf.Tensor) -> TransformerState:
        """See ``DecoderStep.reorder``."""
        return state._replace(ancestors=tf.gather(state.ancestors, parents, batch_dims=1))

    def select(self, state: TransformerState, rows: tf.Tensor) -> TransformerState:
        """See ``DecoderStep.select``."""

        def pick(field: tf.Tensor) -> tf.Tensor:
            return field if field.shape.rank == 0 else tf.gather(field, rows)

        return tf.nest.map_structure(pick, state)

    def grow(self, state: TransformerState, capacity: tf.Tensor) -> TransformerState:
        """See ``DecoderStep.grow``."""
        beams, old = tf.shape(state.ancestors)[1], tf.shape(state.ancestors)[2]
        extra = tf.maximum(state.prefix_size + capacity - old, 0)

        def pad(cache: tf.Tensor) -> tf.Tensor:
            return tf.pad(cache, [[0, 0], [0, 0], [0, extra * beams], [0, 0]])

        return state._replace(
            keys=tuple(map(pad, state.keys)),
            values=tuple(map(pad, state.values)),
            ancestors=tf.pad(state.ancestors, [[0, 0], [0, 0], [0, extra]], constant_values=-1),
        )

    def _over_memory(self, index: int, state: TransformerState) -> Callable[[tf.Tensor], tf.Tensor]:
        return partial(
            self._model.decoder_layers[index].cross_attention.__call__,
            key=state.memory_keys[index],
            value=state.memory_values[index],
            bias=state.memory_bias,
        )


def _with_own_slot(ancestors: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """Every beam k [B, K, C] owns slot k at ``position``."""
    here = tf.range(tf.shape(ancestors)[2]) == position  # [capacity]
    own = tf.range(tf.shape(ancestors)[1])[:, None]  # [beam, 1]
    return tf.where(here, own, ancestors)


def _slot_rows(state: TransformerState, beams: tf.Tensor) -> tf.Tensor:
    """int32 [B*H*K]: where the new slots lie in a cache that is seen as rows [B*H*C*K, Dh]."""
    shape = tf.shape(state.keys[0])
    first = tf.range(shape[0] * shape[1]) * shape[2] + state.used * beams  # [batch * heads]
    return tf.reshape(first[:, None] + tf.range(beams), [-1])


def _write(cache: tf.Tensor, slots: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """Put ``new`` [B, H, K, Dh] into ``slots`` of ``cache`` [B, H, C*K, Dh], in place.

    A copy of the cache at each step would cost more than attention does. An older state that shares the buffer is none
    the worse: it has no ancestor in these slots.
    """
    size = cache.shape[-1]
    rows = tf.raw_ops.InplaceUpdate(x=tf.reshape(cache, [-1, size]), i=slots, v=tf.reshape(new, [-1, size]))
    return tf.reshape(rows, tf.shape(cache))


def _spread(prefix: tf.Tensor, beams: tf.Tensor) -> tf.Tensor:
    """[B, H, P, Dh] -> [B, H, P*K, Dh]: slot 0 of each position holds it, the other slots are never attended."""
    shape = tf.shape(prefix)
    slots = tf.pad(prefix[:, :, :, None, :], [[0, 0], [0, 0], [0, 0], [0, beams - 1], [0, 0]])
    return tf.reshape(slots, [shape[0], shape[1], shape[2] * beams, prefix.shape[-1]])
