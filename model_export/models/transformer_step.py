"""Decoding a Transformer step by step with a key/value cache that beams share.

Beam search never moves the cache. At each call every beam appends one *slot*; ``ancestors`` says which slot holds a
beam's own token at each position, so going on from another beam edits that small table, and the table becomes the
attention mask. A forced prefix lies in the first positions of the same cache, in slot 0: every beam descends from it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from model_export.models.attention import HeadRows
from model_export.models.layers import MASKED, padding_bias

if TYPE_CHECKING:
    from model_export.decoding.step import Places
    from model_export.models.attention import SelfAttention
    from model_export.models.transformer import Transformer


class TransformerState(NamedTuple):
    """``L`` layers, ``H`` heads of size ``Dh``, ``K`` beams, ``C`` positions of capacity (prefix included).

    Caches have the dtype of the model's keys and values, ``Precision.kept_dtype``.
    """

    caches: tuple[tf.Tensor, ...]  # L times [2, B, H, C*K, Dh]: keys, then values; slot k of position c at c*K + k
    ancestors: tf.Tensor  # int32 [B, K, C]: slot of this beam's token at each position, -1 where there is none
    memory_keys: tuple[tf.Tensor, ...]  # L times [B, H, Dh, S]
    memory_values: tuple[tf.Tensor, ...]  # L times [B, H, S, Dh]
    memory_bias: tf.Tensor  # [B, 1, 1, S]
    slots: tf.Tensor  # int32 [N*2*H]: where a cache of rows [2*B*H*C*K, Dh] has the slots of position 0 that are taken
    heads: Any  # HeadRows; () without beams
    prefix_size: tf.Tensor  # int32 []: positions that the prefix takes
    used: tf.Tensor  # int32 []: positions in use, prefix included


class TransformerStep:
    """``DecoderStep`` over the layers of a ``Transformer``."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._heads = model.decoder_layers[0].self_attention.heads

    def start(self, source_ids: tf.Tensor, source_lengths: tf.Tensor, beam_size: int | tf.Tensor) -> TransformerState:
        """See ``DecoderStep.start``."""
        memory, bias = self._model.encode(source_ids, source_lengths)
        projected = [layer.cross_attention.project_memory(memory) for layer in self._model.decoder_layers]
        return TransformerState(
            # No two caches begin as the same tensor: a graph would make one buffer of them, and ``_write`` writes into
            # it.
            caches=tuple(tf.stack([key[:, :, :0], value[:, :, :0]]) for key, value in projected),
            ancestors=tf.zeros([tf.shape(source_ids)[0], beam_size, 0], tf.int32),
            memory_keys=tuple(tf.transpose(key, [0, 1, 3, 2]) for key, _ in projected),
            memory_values=tuple(value for _, value in projected),
            memory_bias=tf.cast(bias, projected[0][0].dtype),
            slots=tf.zeros([0], tf.int32),
            heads=() if isinstance(beam_size, int) else HeadRows.nowhere(self._heads),
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
        caches = []
        for index, layer in enumerate(self._model.decoder_layers):

            def over_self(
                y: tf.Tensor, residual: tf.Tensor, attention: SelfAttention = layer.self_attention
            ) -> tf.Tensor:
                query, key, value = attention.project(y)
                caches.append(_spread(tf.stack([key, value]), beams))
                return attention.attend(query, key, value, bias, residual)

            over_memory = partial(
                layer.cross_attention.__call__,
                key=tf.transpose(state.memory_keys[index], [0, 1, 3, 2]),
                value=state.memory_values[index],
                bias=state.memory_bias,
            )
            x = layer(x, over_self=over_self, over_memory=over_memory)
        known = tf.where(tf.sequence_mask(prefix_lengths, size), 0, -1)  # [batch, prefix]
        return state._replace(
            caches=tuple(caches),
            ancestors=tf.repeat(known[:, None, :], beams, axis=1),
            prefix_size=size,
            used=size,
        )

    def __call__(
        self, ids: tf.Tensor, positions: tf.Tensor, state: TransformerState
    ) -> tuple[tf.Tensor, TransformerState]:
        """See ``DecoderStep.__call__``.

        Beams are rows throughout, [N, width]: at one position they share nothing but the heads' products.
        """
        heads = state.heads or None
        beams = 1 if heads is None else tf.shape(state.ancestors)[1]
        ancestors = _with_own_slot(state.ancestors, state.used, beams)
        bias = _ancestry_bias(ancestors, beams, state.memory_bias.dtype)
        slots, cache_shape = state.slots + state.used * beams, tf.shape(state.caches[0])
        # A row that is done is asked on until its batch-mates are, past the table too; its logits do not count then.
        positions = tf.minimum(positions, self._model.target_positions.shape[0] - 1)
        x = self._model.embed_target(ids, positions)  # [place, width]
        caches = []
        for index, layer in enumerate(self._model.decoder_layers):

            def over_self(
                y: tf.Tensor, residual: tf.Tensor, index: int = index, attention: SelfAttention = layer.self_attention
            ) -> tf.Tensor:
                query, new = tf.split(attention.qkv_projection(y), [attention.width, 2 * attention.width], axis=1)
                caches.append(_write(state.caches[index], cache_shape, slots, new))
                key, value = tf.unstack(caches[-1])
                return attention.attend_rows(query, key, value, bias, heads, residual, transpose_key=True)

            over_memory = partial(
                layer.cross_attention.read_rows,
                key=state.memory_keys[index],
                value=state.memory_values[index],
                bias=state.memory_bias,
                rows=heads,
            )
            x = layer(x, over_self=over_self, over_memory=over_memory)
        logits = self._model.output_projection(self._model.decoded(x))  # [place, vocabulary]
        return logits, state._replace(caches=tuple(caches), ancestors=ancestors, used=state.used + 1)

    def reorder(self, state: TransformerState, parents: tf.Tensor) -> TransformerState:
        """See ``DecoderStep.reorder``."""
        return state._replace(ancestors=tf.gather(state.ancestors, parents, batch_dims=1))

    def select(self, state: TransformerState, rows: tf.Tensor) -> TransformerState:
        """See ``DecoderStep.select``."""
        return state._replace(
            caches=tuple(tf.gather(cache, rows, axis=1) for cache in state.caches),
            ancestors=tf.gather(state.ancestors, rows),
            memory_keys=tuple(tf.gather(key, rows) for key in state.memory_keys),
            memory_values=tuple(tf.gather(value, rows) for value in state.memory_values),
            memory_bias=tf.gather(state.memory_bias, rows),
        )

    def grow(self, state: TransformerState, capacity: tf.Tensor, places: Places | None) -> TransformerState:
        """See ``DecoderStep.grow``."""
        beams, old = tf.shape(state.ancestors)[1], tf.shape(state.ancestors)[2]
        extra = tf.maximum(state.prefix_size + capacity - old, 0)
        padding = [[0, 0], [0, 0], [0, 0], [0, extra * beams], [0, 0]]
        caches = tuple(tf.pad(cache, padding) for cache in state.caches)
        return state._replace(
            caches=caches,
            ancestors=tf.pad(state.ancestors, [[0, 0], [0, 0], [0, extra]], constant_values=-1),
            slots=_first_slots(caches[0], beams, places),
            heads=() if places is None else HeadRows.of(places, self._heads),
        )


def _with_own_slot(ancestors: tf.Tensor, position: tf.Tensor, beams: int | tf.Tensor) -> tf.Tensor:
    """Every beam k [B, K, C] owns slot k at ``position``, where there was none.

    Added to the -1 there: to choose between tensors of unlike shapes takes TensorFlow ten times as long.
    """
    here = tf.cast(tf.range(tf.shape(ancestors)[2]) == position, tf.int32)  # [capacity]
    if isinstance(beams, int) and beams == 1:
        return ancestors + here
    return ancestors + tf.expand_dims(tf.range(1, beams + 1), 1) * here


def _ancestry_bias(ancestors: tf.Tensor, beams: int | tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """[B, 1, K, C*K]: 0 for the slots of a beam's own past."""
    if isinstance(beams, int) and beams == 1:
        return tf.expand_dims(tf.cast(ancestors, dtype), 1) * tf.constant(-MASKED, dtype)  # [batch, 1, 1, capacity]
    zero, masked = tf.constant(0.0, dtype), tf.constant(MASKED, dtype)
    chosen = tf.one_hot(ancestors, beams, on_value=zero, off_value=masked)  # [batch, beam, capacity, slot]
    shape = tf.shape(chosen)
    return tf.reshape(chosen, [shape[0], 1, beams, shape[2] * beams])


def _first_slots(cache: tf.Tensor, beams: tf.Tensor, places: Places | None) -> tf.Tensor:
    """``TransformerState.slots`` of a cache [2, B, H, C*K, Dh]; those of the next position lie K further."""
    halves, batch, heads, size, _ = tf.unstack(tf.shape(cache))
    first = (tf.range(halves) * batch)[None, :, None] + tf.range(batch)[:, None, None]  # [batch, 2, 1]
    first = (first * heads + tf.range(heads)) * size  # [batch, 2, head]
    if places is not None:
        first = tf.gather(first, places.rows) + (places.taken - places.rows * beams)[:, None, None]  # [place, 2, head]
    return tf.reshape(first, [-1])


def _write(cache: tf.Tensor, shape: tf.Tensor, slots: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """Put ``new`` [N, 2*H*Dh] into ``slots`` of ``cache`` [2, B, H, C*K, Dh], of this ``shape``, in place.

    A copy of the cache at each step would cost more than attention does. An older state that shares the buffer is none
    the worse: it has no ancestor in these slots.
    """
    size = cache.shape[-1]
    rows = tf.raw_ops.InplaceUpdate(x=tf.reshape(cache, [-1, size]), i=slots, v=tf.reshape(new, [-1, size]))
    written = tf.reshape(rows, shape)
    written.set_shape(cache.shape)
    return written


def _spread(prefix: tf.Tensor, beams: tf.Tensor) -> tf.Tensor:
    """[2, B, H, P, Dh] -> [2, B, H, P*K, Dh]: slot 0 of each position holds it, the others are never attended."""
    shape = tf.shape(prefix)
    slots = tf.pad(
        prefix[..., None, :], [[0, 0]] * 4 + [[0, beams - 1], [0, 0]]
    )  # [2, batch, head, prefix, beam, size]
    spread = tf.reshape(slots, [2, shape[1], shape[2], shape[3] * beams, prefix.shape[-1]])
    spread.set_shape([2, None, prefix.shape[2], None, prefix.shape[-1]])
    return spread
