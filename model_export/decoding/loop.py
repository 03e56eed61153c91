"""The one decode loop, for every model and every search.

An outer loop grows the caches a few positions at a time and drops the rows that are done; an inner loop decodes until
the room is used up. The step's graph appears once, and a batch of unlike lengths costs what its live rows cost.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

import tensorflow as tf

from model_export.decoding.hypotheses import Hypotheses, keep_wanted, no_hypotheses, with_capacity
from model_export.decoding.options import DecodingOptions, RareOptions, RowContext, TokenIds
from model_export.decoding.penalties import seen_prefix
from model_export.decoding.places import packed, unpacked
from model_export.decoding.samples import Samples, any_wants_several, one_each, regroup, several
from model_export.decoding.step import DecoderStep, Places

_MIN_GROWTH = 8
"""Positions added at a time, and steps between two looks for finished rows; a quarter of the capacity when longer."""


class Search(Protocol):
    """What a search adds to the loop. Its state is a ``NamedTuple`` whose fields all begin with the rows, [B, ...].

    The rows' context comes beside the state: what never changes need not be handed on from step to step.
    """

    @property
    def beam_size(self) -> int | tf.Tensor:
        """Places for the beams of a row, ``K``."""
        ...

    def begin(self, owners: tf.Tensor) -> Any:
        """The state before the first token, of rows for the texts ``owners`` int32 [R]: some are sampled several times.

        Of sizes that grow with tokens a graph must not know.
        """
        ...

    def places(self, state: Any) -> Places | None:
        """Those that the beams of the rows take; None: each row has one."""
        ...

    def advance(
        self, logits: tf.Tensor, time: tf.Tensor, rows: RowContext, places: Any, state: Any
    ) -> tuple[tf.Tensor, tf.Tensor | None, Any]:
        """Choose token number ``time`` of every row from ``logits`` [N, V] of the ``N`` ``places`` that are taken.

        Returns the chosen ids [N], the beams they continue [B, K] (None: each its own), and the new state.
        """
        ...

    def is_live(self, state: Any) -> tf.Tensor:
        """bool [B]: rows that need further tokens."""
        ...

    def hypotheses(self, rows: RowContext, state: Any) -> Hypotheses:
        """The answers so far, final for rows that are done."""
        ...


class _Live(NamedTuple):
    """The rows still being decoded: ``N`` of the ``B`` asked for."""

    rows: tf.Tensor  # int32 [N]: which
    ids: tf.Tensor  # int32 [N, K]: the last known token of each beam
    positions: tf.Tensor  # int32 [N]: where the first of them stood
    context: RowContext  # [N, ...]
    search: Any  # Search state


def decode(
    step: DecoderStep[Any],
    search: Search,
    source_ids: tf.Tensor,
    source_lengths: tf.Tensor,
    options: DecodingOptions,
    tokens: TokenIds,
) -> Hypotheses:
    """Decode ``source_ids`` int32 [B, S] of ``source_lengths`` int32 [B], each row as if alone."""
    known = tf.pad(options.prefix_ids, [[0, 0], [1, 0]], constant_values=tokens.start)  # [batch, 1 + prefix]
    model = _read_prefix(step, step.start(source_ids, source_lengths, search.beam_size), known, options.prefix_lengths)
    is_several = any_wants_several(options)
    samples, of_rows, model = tf.cond(
        is_several, lambda: several(step, options, model), lambda: (one_each(options), options, model)
    )
    last = tf.gather_nd(known, tf.stack([samples.owners, of_rows.prefix_lengths], axis=1))  # [rows]
    results = _decode_rows(step, search, last, of_rows, samples, model, tokens)
    results = tf.cond(is_several, lambda: regroup(results, samples, options, tokens.pad), lambda: results)
    return keep_wanted(results, options.num_hypotheses, tokens.pad)


def _decode_rows(
    step: DecoderStep[Any],
    search: Search,
    last: tf.Tensor,
    options: DecodingOptions,
    samples: Samples,
    model: Any,
    tokens: TokenIds,
) -> Hypotheses:
    """The answers [N, K, T] of ``N`` rows whose last known tokens are ``last`` int32 [N]; ``model`` read the others."""
    rows, beam_size = tf.shape(last)[0], search.beam_size
    live = _Live(
        rows=tf.range(rows),
        ids=tf.repeat(last[:, None], beam_size, axis=1),
        positions=options.prefix_lengths,
        context=_context(options, samples.numbers, tokens),
        search=search.begin(samples.owners),
    )
    limit = tf.reduce_max(options.max_new_tokens)
    results = no_hypotheses(rows, beam_size, limit, tokens.pad)

    def any_left(time: tf.Tensor, live: _Live, model: Any, results: Hypotheses) -> tf.Tensor:
        return tf.logical_and(time < limit, tf.shape(live.rows)[0] > 0)

    def chunk(time: tf.Tensor, live: _Live, model: Any, results: Hypotheses) -> tuple[Any, ...]:
        time, live, model = _decode_chunk(step, search, time, _next_capacity(time, limit), live, model)
        so_far = with_capacity(search.hypotheses(live.context, live.search), limit, tokens.pad)
        results = tf.nest.map_structure(
            lambda all_rows, rows: tf.tensor_scatter_nd_update(all_rows, live.rows[:, None], rows), results, so_far
        )
        live, model = _drop_done(step, search, live, model)
        return time, live, model, results

    *_, results = _while_loop(
        any_left, chunk, (tf.constant(0), live, model, results), _later(step, search, live, model)
    )
    return cast(Hypotheses, results)


def _context(options: DecodingOptions, sample_numbers: tf.Tensor, tokens: TokenIds) -> RowContext:
    own = {name: getattr(options, name) for name in RareOptions._fields if name in DecodingOptions._fields}
    rare = RareOptions(**own, sample_numbers=sample_numbers, seen_prefix=seen_prefix(options, tokens))
    return RowContext(options.max_new_tokens, options.min_new_tokens, options.length_penalty, rare.pack())


def _read_prefix(step: DecoderStep[Any], state: Any, known: tf.Tensor, prefix_lengths: tf.Tensor) -> Any:
    """All known tokens but the last, read in parallel; nothing is spent where no row has a prefix."""
    longest = tf.reduce_max(prefix_lengths)
    return tf.cond(longest > 0, lambda: step.prefill(known[:, :longest], prefix_lengths, state), lambda: state)


def _next_capacity(time: tf.Tensor, limit: tf.Tensor) -> tf.Tensor:
    return tf.minimum(time + tf.maximum(_MIN_GROWTH, time // 4), limit)


def _decode_chunk(
    step: DecoderStep[Any], search: Search, time: tf.Tensor, capacity: tf.Tensor, live: _Live, model: Any
) -> tuple[tf.Tensor, _Live, Any]:
    """Decode until ``capacity`` tokens are there or every row is done."""
    places = search.places(live.search)
    first = live.positions if places is None else tf.gather(live.positions, places.rows)  # [place]

    def goes_on(time: tf.Tensor, ids: tf.Tensor, state: Any, model: Any) -> tf.Tensor:
        return tf.logical_and(time < capacity, tf.reduce_any(search.is_live(state)))

    def one_token(time: tf.Tensor, ids: tf.Tensor, state: Any, model: Any) -> tuple[Any, ...]:
        logits, model = step(ids, first + time, model)
        ids, parents, state = search.advance(logits, time, live.context, places, state)
        return time + 1, ids, state, model if parents is None else step.reorder(model, parents)

    grown = (time, packed(live.ids, places), live.search, step.grow(model, capacity, places))
    time, ids, state, model = tf.while_loop(goes_on, one_token, grown)
    return time, live._replace(ids=unpacked(ids, places), search=state), model


def _drop_done(step: DecoderStep[Any], search: Search, live: _Live, model: Any) -> tuple[_Live, Any]:
    """Without the rows that are done; a copy is made only when there are some."""
    is_live = search.is_live(live.search)
    return tf.cond(tf.reduce_all(is_live), lambda: (live, model), lambda: _keep(step, is_live, live, model))


def _keep(step: DecoderStep[Any], mask: tf.Tensor, live: _Live, model: Any) -> tuple[_Live, Any]:
    """The rows where ``mask`` bool [N] holds."""
    rows = tf.cast(tf.where(mask)[:, 0], tf.int32)
    return tf.nest.map_structure(lambda field: tf.gather(field, rows), live), step.select(model, rows)


def _later(step: DecoderStep[Any], search: Search, live: _Live, model: Any) -> tuple[_Live, Any] | None:
    """Rows and room as a later turn of the loop has them, for their shapes alone: they show which sizes vary.

    Nothing uses the values, so a graph drops the work; without a graph no shape need be declared.
    """
    if tf.executing_eagerly():
        return None
    grown = step.grow(model, tf.shape(live.rows)[0], search.places(live.search))
    return _keep(step, live.rows >= 0, live, grown)


def _while_loop(condition: Any, body: Any, start: tuple[Any, ...], later: tuple[_Live, Any] | None) -> tuple[Any, ...]:
    """``tf.while_loop`` over (time, live, model, results); ``later`` says which sizes of live and model vary."""
    if later is None:
        result: tuple[Any, ...] = tf.while_loop(condition, body, start)
        return result
    time, live, model, results = start

    def common(a: tf.Tensor, b: tf.Tensor) -> tf.TensorShape:
        return a.shape.most_specific_compatible_shape(b.shape)

    invariants = (
        time.shape,
        *tf.nest.map_structure(common, (live, model), later),
        tf.nest.map_structure(lambda field: field.shape, results),
    )
    result = tf.while_loop(condition, body, start, shape_invariants=invariants)
    return result
