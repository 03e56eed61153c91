"""Beam search with n-best, as CTranslate2 does it (patience 1).

At each position the candidates of a row are every beam continued by every token. Those among the ``beam_size`` best
that end in EOS become finished hypotheses; the ``beam_size`` best that do not end are the next beams. A row is done
when ``beam_size`` hypotheses have finished, or at its ``max_new_tokens``, where the best candidates all finish.

Rows of one call may differ in ``beam_size``: all have as many places as the widest, and those that a row does not ask
for stay empty.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from model_export.contract import FinishReason
from model_export.decoding.branches import rarely
from model_export.decoding.candidates import log_normalizer
from model_export.decoding.continuations import BeamsSoFar, Continuations, best_continuations, where_asked
from model_export.decoding.hypotheses import Hypotheses, growing, no_hypotheses, with_capacity, without
from model_export.decoding.loop import decode
from model_export.decoding.options import DecodingOptions, RowContext, TokenIds, asks_for_penalties
from model_export.decoding.penalties import end_is_allowed, unpenalized
from model_export.decoding.places import packed, places_of, unpacked
from model_export.decoding.step import DecoderStep, Places


def beam_search(
    step: DecoderStep[Any],
    source_ids: tf.Tensor,
    source_lengths: tf.Tensor,
    beam_size: int | tf.Tensor,
    options: DecodingOptions,
    tokens: TokenIds,
) -> Hypotheses:
    """The ``num_hypotheses`` best of ``beam_size`` (int32 scalar, or [B]) per row, best first.

    ``source_ids`` int32 [B, S], ``source_lengths`` int32 [B]. A row that asks for ``do_sample`` must have one beam, and
    gets ``num_hypotheses`` samples.
    """
    search = _BeamSearch(tf.broadcast_to(beam_size, tf.shape(source_lengths)), tokens, options)
    return decode(step, search, source_ids, source_lengths, options, tokens)


class _Beams(NamedTuple):
    """``K`` live hypotheses per row, ``C`` tokens each."""

    ids: tf.Tensor  # int32 [B, K, C]
    token_log_probs: tf.Tensor  # float32 [B, K, C]
    scores: tf.Tensor  # float32 [B, K]: what ranks them, log-probability so far by the processed logits; minus infinity
    # where there is no hypothesis


class _BeamState(NamedTuple):
    live: _Beams  # best first
    finished: Hypotheses  # [B, K]: the best so far, best first; with room for those
    missing: tf.Tensor  # int32 [B]: how many must finish yet
    is_live: tf.Tensor  # bool [B]
    ceiling: tf.Tensor  # float32 [B, K], of scores: infinity for the beams of a row, minus infinity where it has none


class _BeamSearch:
    def __init__(self, beam_sizes: tf.Tensor, tokens: TokenIds, options: DecodingOptions) -> None:
        # A graph is told nothing of its value, be it known, because it is told of no other size that loops gather by.
        self.beam_size = tf.compat.v1.placeholder_with_default(tf.reduce_max(beam_sizes), [])
        self._beam_sizes = beam_sizes
        self._tokens = tokens
        self._is_penalized = asks_for_penalties(options)
        self._is_special = self._is_penalized | tf.reduce_any(options.do_sample)

    def begin(self, owners: tf.Tensor) -> _BeamState:
        batch = tf.shape(owners)[0]
        nothing = no_hypotheses(batch, self.beam_size, 0, self._tokens.pad)
        nothing = nothing._replace(ids=growing(nothing.ids), token_log_probs=growing(nothing.token_log_probs))
        # All beams would be the same before the first token: one is there, the others are not.
        is_first = tf.range(self.beam_size) == 0
        scores = tf.where(is_first, tf.zeros([batch, 1]), float("-inf"))  # [batch, beam]
        sizes = tf.gather(self._beam_sizes, owners)
        is_there = tf.sequence_mask(sizes, self.beam_size)  # [batch, beam]
        return _BeamState(
            live=_Beams(nothing.ids, nothing.token_log_probs, scores),
            finished=nothing,
            missing=sizes,
            is_live=tf.ones([batch], tf.bool),
            ceiling=tf.where(is_there, float("inf"), float("-inf")),
        )

    def places(self, state: _BeamState) -> Places:
        return places_of(state.ceiling > 0.0)

    def advance(
        self, logits: tf.Tensor, time: tf.Tensor, rows: RowContext, places: Places, state: _BeamState
    ) -> tuple[tf.Tensor, tf.Tensor, _BeamState]:
        live = state.live
        normalizer = log_normalizer(logits)  # [place]
        found = self._continuations(logits, normalizer, time, rows, places, state)
        own = tf.gather(logits, found.ids, batch_dims=1) - tf.expand_dims(normalizer, 1)  # [place, candidate]
        ids, own, ranking = (unpacked(each, places) for each in (found.ids, own, found.log_probs))
        going_on, parents, chosen, last_score = self._continue(ids, own, ranking, state)

        may_end = end_is_allowed(time, tf.expand_dims(rows.min_new_tokens, 1), ranking[:, :, 0])
        end_scores = live.scores + unpacked(found.ending, places)  # [batch, beam]
        end_scores = tf.where(may_end, end_scores, tf.fill(tf.shape(end_scores), float("-inf")))
        is_last = time + 1 >= rows.max_new_tokens  # [batch]

        def finish() -> tuple[Hypotheses, tf.Tensor]:
            own_end = unpacked(logits[:, self._tokens.eos] - normalizer, places)  # [batch, beam]
            candidates = {
                FinishReason.EOS_TOKEN: self._ended(live, own_end, end_scores),
                FinishReason.LENGTH: going_on,
            }
            masks = self._finishing(end_scores, going_on.scores, is_last, state)
            finished = self._finish(candidates, masks, time + 1, rows.length_penalty, state.finished)
            return finished, state.missing - _count(masks[FinishReason.EOS_TOKEN])

        # What ends must be as good as the last of those that go on, else they all beat it.
        may_finish = tf.reduce_any(end_scores >= last_score) | tf.reduce_any(is_last)
        finished, missing = rarely(may_finish, finish, lambda: (state.finished, state.missing))
        has_none_left = going_on.scores[:, 0] == float("-inf")
        is_live = state.is_live & ~(is_last | (missing <= 0) | has_none_left)
        return packed(chosen, places), parents, _BeamState(going_on, finished, missing, is_live, state.ceiling)

    def is_live(self, state: _BeamState) -> tf.Tensor:
        return state.is_live

    def hypotheses(self, rows: RowContext, state: _BeamState) -> Hypotheses:
        return state.finished

    def _continuations(
        self,
        logits: tf.Tensor,
        normalizer: tf.Tensor,
        time: tf.Tensor,
        rows: RowContext,
        places: Places,
        state: _BeamState,
    ) -> Continuations:
        width = tf.minimum(self.beam_size, logits.shape[-1])  # the K best of each beam hold the K best of the row
        plain = best_continuations(unpenalized(logits, normalizer, self._tokens), width, self._tokens)

        def changed() -> Continuations:
            of_rows = (tf.gather(each, places.rows) for each in (rows.min_new_tokens, rows.rare))
            beams = BeamsSoFar(logits, normalizer, packed(state.live.ids, places), *of_rows)
            is_live = tf.gather(state.is_live, places.rows)  # [place]
            return where_asked(plain, beams, is_live, self._is_penalized, time, self._tokens)

        found: Continuations = rarely(self._is_special, changed, lambda: plain)
        return found

    def _continue(
        self, tokens: tf.Tensor, own: tf.Tensor, ranking: tf.Tensor, state: _BeamState
    ) -> tuple[_Beams, tf.Tensor, tf.Tensor, tf.Tensor]:
        """The best candidates that do not end, best first, as many as a row has beams.

        With their parents [B, K], their last tokens [B, K], and what the last of each row scores, [B, 1].

        ``tokens`` int32 [B, K, N] are the best of each beam; ``own`` and ``ranking`` float32 [B, K, N] their
        log-probabilities by the unmodified and by the processed logits.
        """
        live, width = state.live, tf.shape(tokens)[2]
        flat = [-1, self.beam_size * width]
        scores, index = tf.math.top_k(tf.reshape(tf.expand_dims(live.scores, 2) + ranking, flat), k=self.beam_size)
        parents = index // width  # [batch, beam]
        chosen = tf.gather(tf.reshape(tokens, flat), index, batch_dims=1)
        chosen_log_probs = tf.gather(tf.reshape(own, flat), index, batch_dims=1)
        ids = tf.gather(live.ids, parents, batch_dims=1)
        token_log_probs = tf.gather(live.token_log_probs, parents, batch_dims=1)
        last_score = tf.reduce_min(tf.maximum(scores, -state.ceiling), axis=1, keepdims=True)  # [batch, 1]
        scores = tf.minimum(scores, state.ceiling)
        best = _Beams(_followed(ids, chosen), _followed(token_log_probs, chosen_log_probs), scores)
        return best, parents, chosen, last_score

    def _ended(self, live: _Beams, log_probs: tf.Tensor, scores: tf.Tensor) -> _Beams:
        """Every beam with EOS as its next token; ``log_probs`` and ``scores`` float32 [B, K]."""
        eos = tf.fill(tf.shape(log_probs), self._tokens.eos)
        return _Beams(_followed(live.ids, eos), _followed(live.token_log_probs, log_probs), scores)

    def _finishing(
        self, end_scores: tf.Tensor, scores: tf.Tensor, is_last: tf.Tensor, state: _BeamState
    ) -> dict[FinishReason, tf.Tensor]:
        """bool [B, K] each: which finish, of those that end and of those that could go on.

        They are among the beam_size best of all candidates: fewer than beam_size others beat them.
        """
        sizes = tf.expand_dims(_count(state.ceiling > 0.0), 1)  # [batch, 1]
        is_live = tf.expand_dims(state.is_live, 1)  # [batch, 1]
        end_rank = _count_greater(end_scores, end_scores) + _count_greater(end_scores, scores)
        ends = (end_rank < sizes) & tf.math.is_finite(end_scores)  # [batch, beam]
        rank = tf.range(self.beam_size) + _count_greater(scores, end_scores, or_equal=True)
        is_cut = is_last[:, None] & (rank < sizes) & tf.math.is_finite(scores)
        return {FinishReason.EOS_TOKEN: ends & is_live, FinishReason.LENGTH: is_cut & is_live}

    def _finish(
        self,
        candidates: dict[FinishReason, _Beams],
        masks: dict[FinishReason, tf.Tensor],
        length: tf.Tensor,
        length_penalty: tf.Tensor,
        finished: Hypotheses,
    ) -> Hypotheses:
        """The ``K`` best of the ``finished`` and of those ``candidates`` that their mask [B, K] lets in."""
        pool = [with_capacity(finished, length, self._tokens.pad)]
        norm = tf.cast(length, tf.float32) ** length_penalty[:, None]
        for reason, beams in candidates.items():
            shape = tf.shape(beams.scores)
            pool.append(
                Hypotheses(
                    ids=beams.ids,
                    lengths=tf.fill(shape, length),
                    finish_reasons=tf.fill(shape, int(reason)),
                    scores=tf.reduce_sum(beams.token_log_probs, axis=2),
                    normalized_scores=tf.where(masks[reason], beams.scores / norm, float("-inf")),
                    token_log_probs=beams.token_log_probs,
                )
            )
        merged = tf.nest.map_structure(lambda *fields: tf.concat(fields, axis=1), *pool)
        best = tf.math.top_k(merged.normalized_scores, k=self.beam_size)
        kept = tf.nest.map_structure(lambda field: tf.gather(field, best.indices, batch_dims=1), merged)
        # A place that no candidate fills must not show one that its mask kept out.
        return without(kept, tf.math.is_inf(best.values), self._tokens.pad)


def _followed(sequences: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """``sequences`` [B, K, C] with ``values`` [B, K] after them."""
    return tf.concat([sequences, tf.expand_dims(values, 2)], axis=2)


def _count_greater(scores: tf.Tensor, others: tf.Tensor, or_equal: bool = False) -> tf.Tensor:
    """int32 [B, K]: how many of ``others`` [B, M] beat each of ``scores`` [B, K]."""
    compare = tf.greater_equal if or_equal else tf.greater
    return _count(compare(others[:, None, :], scores[:, :, None]))  # [batch, beam]


def _count(mask: tf.Tensor) -> tf.Tensor:
    """int32 [...]: in how many places of the last axis ``mask`` bool [..., M] holds."""
    return tf.reduce_sum(tf.cast(mask, tf.int32), axis=-1)
