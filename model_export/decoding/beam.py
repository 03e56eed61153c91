"""Beam search with n-best, as CTranslate2 does it (patience 1).

At each position the candidates of a row are every beam continued by every token. Those among the ``beam_size`` best
that end in EOS become finished hypotheses; the ``beam_size`` best that do not end are the next beams. A row is done
when ``beam_size`` hypotheses have finished, or at its ``max_new_tokens``, where the best candidates all finish.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from model_export.contract import FinishReason
from model_export.decoding.branches import rarely
from model_export.decoding.candidates import best_tokens, log_normalizer
from model_export.decoding.hypotheses import Hypotheses, no_hypotheses, with_capacity, without
from model_export.decoding.loop import decode
from model_export.decoding.options import DecodingOptions, RareOptions, RowContext, TokenIds, asks_for_penalties
from model_export.decoding.penalties import Processed, end_is_allowed, penalized, unpenalized
from model_export.decoding.step import DecoderStep


def beam_search(
    step: DecoderStep[Any],
    source_ids: tf.Tensor,
    source_lengths: tf.Tensor,
    beam_size: int | tf.Tensor,
    options: DecodingOptions,
    tokens: TokenIds,
) -> Hypotheses:
    """The ``num_hypotheses`` best of ``beam_size`` (int32 scalar) per row, best first.

    ``source_ids`` int32 [B, S], ``source_lengths`` int32 [B]. No row may ask for ``do_sample``: beams do not draw.
    """
    return decode(
        step, _BeamSearch(beam_size, tokens, asks_for_penalties(options)), source_ids, source_lengths, options, tokens
    )


class _Beams(NamedTuple):
    """``K`` live hypotheses per row and their continuations: ``C`` tokens of room."""

    ids: tf.Tensor  # int32 [B, K, C]
    token_log_probs: tf.Tensor  # float32 [B, K, C]
    scores: tf.Tensor  # float32 [B, K]: what ranks them, log-probability so far by the processed logits; minus infinity
    # where there is no hypothesis


class _BeamState(NamedTuple):
    live: _Beams
    finished: Hypotheses  # [B, K]: the best so far, best first
    finished_count: tf.Tensor  # int32 [B]: how many have finished, those no longer among the best included
    is_done: tf.Tensor  # bool [B]


class _BeamSearch:
    draws = False

    def __init__(self, beam_size: int | tf.Tensor, tokens: TokenIds, is_penalized: tf.Tensor) -> None:
        self.beam_size = beam_size
        self._tokens = tokens
        self._is_penalized = is_penalized

    def begin(self, batch: tf.Tensor) -> _BeamState:
        nothing = no_hypotheses(batch, self.beam_size, 0, self._tokens.pad)
        # All beams would be the same before the first token: one is there, the others are not.
        is_first = tf.range(self.beam_size) == 0
        scores = tf.where(is_first, tf.zeros([batch, 1]), float("-inf"))  # [batch, beam]
        return _BeamState(
            live=_Beams(nothing.ids, nothing.token_log_probs, scores),
            finished=nothing,
            finished_count=tf.zeros([batch], tf.int32),
            is_done=tf.zeros([batch], tf.bool),
        )

    def grow(self, state: _BeamState, capacity: tf.Tensor) -> _BeamState:
        padding = [[0, 0], [0, 0], [0, capacity - tf.shape(state.live.ids)[2]]]
        live = state.live._replace(
            ids=tf.pad(state.live.ids, padding, constant_values=self._tokens.pad),
            token_log_probs=tf.pad(state.live.token_log_probs, padding),
        )
        return state._replace(live=live, finished=with_capacity(state.finished, capacity, self._tokens.pad))

    def advance(
        self, logits: tf.Tensor, time: tf.Tensor, rows: RowContext, state: _BeamState
    ) -> tuple[tf.Tensor, tf.Tensor, _BeamState]:
        normalizer = log_normalizer(logits)  # [batch, beam]
        processed = self._process(logits, normalizer, time, rows, state.live)
        width = tf.minimum(self.beam_size, logits.shape[-1])  # the K best of each beam hold the K best of the row
        best, ids = best_tokens(processed.going_on, width, self._tokens.not_continuing)  # [batch, beam, candidate]
        own = tf.gather(logits, ids, batch_dims=2) - normalizer[:, :, None]  # [batch, beam, candidate]
        ranking = best - processed.normalizer[:, :, None]
        going_on, parents, chosen = self._continue(ids, own, ranking, time, state.live)
        may_end = end_is_allowed(time, rows.min_new_tokens[:, None], best[:, :, 0])
        own_end = logits[:, :, self._tokens.eos] - normalizer  # [batch, beam]
        ending = self._end(may_end, own_end, processed.ending - processed.normalizer, time, state.live)

        # Which are among the beam_size best of all candidates: those that fewer than beam_size others beat.
        ending_rank = _count_greater(ending.scores, ending.scores) + _count_greater(ending.scores, going_on.scores)
        ends = (ending_rank < self.beam_size) & tf.math.is_finite(ending.scores)  # [batch, beam]
        is_last = time + 1 >= rows.max_new_tokens  # [batch]
        cut_rank = tf.range(self.beam_size) + _count_greater(going_on.scores, ending.scores, or_equal=True)
        is_cut = is_last[:, None] & (cut_rank < self.beam_size) & tf.math.is_finite(going_on.scores)

        def finish() -> tuple[Hypotheses, tf.Tensor]:
            is_live = ~state.is_done[:, None]
            reasons = {
                FinishReason.EOS_TOKEN: (ending, ends & is_live),
                FinishReason.LENGTH: (going_on, is_cut & is_live),
            }
            newly = tf.math.count_nonzero(ends & is_live, 1, dtype=tf.int32)
            return self._finish(reasons, time + 1, rows.length_penalty, state.finished), newly

        finished, newly = rarely(
            tf.reduce_any(ends | is_cut), finish, lambda: (state.finished, tf.zeros_like(state.finished_count))
        )
        count = state.finished_count + newly
        has_none_left = going_on.scores[:, 0] == float("-inf")
        is_done = state.is_done | is_last | (count >= self.beam_size) | has_none_left
        return chosen, parents, state._replace(live=going_on, finished=finished, finished_count=count, is_done=is_done)

    def is_done(self, state: _BeamState) -> tf.Tensor:
        return state.is_done

    def hypotheses(self, rows: RowContext, state: _BeamState) -> Hypotheses:
        return state.finished

    def _process(
        self, logits: tf.Tensor, normalizer: tf.Tensor, time: tf.Tensor, rows: RowContext, live: _Beams
    ) -> Processed:
        def changed() -> Processed:
            return penalized(logits, normalizer, live.ids, time, RareOptions.unpack(rows.rare), self._tokens)

        processed: Processed = rarely(
            self._is_penalized, changed, lambda: unpenalized(logits, normalizer, self._tokens)
        )
        return processed

    def _continue(
        self, tokens: tf.Tensor, own: tf.Tensor, ranking: tf.Tensor, time: tf.Tensor, live: _Beams
    ) -> tuple[_Beams, tf.Tensor, tf.Tensor]:
        """The ``K`` best candidates that do not end, best first, their parents [B, K] and last tokens [B, K].

        ``tokens`` int32 [B, K, N] are the best of each beam; ``own`` and ``ranking`` float32 [B, K, N] their
        log-probabilities by the unmodified and by the processed logits.
        """
        width = tf.shape(tokens)[2]
        flat = [tf.shape(tokens)[0], self.beam_size * width]
        scores, index = tf.math.top_k(tf.reshape(live.scores[:, :, None] + ranking, flat), k=self.beam_size)
        parents = index // width  # [batch, beam]
        chosen = tf.gather(tf.reshape(tokens, flat), index, batch_dims=1)
        chosen_log_probs = tf.gather(tf.reshape(own, flat), index, batch_dims=1)
        ids = tf.gather(live.ids, parents, batch_dims=1)
        token_log_probs = tf.gather(live.token_log_probs, parents, batch_dims=1)
        beams = _Beams(_put(ids, time, chosen), _put(token_log_probs, time, chosen_log_probs), scores)
        return beams, parents, chosen

    def _end(self, may_end: tf.Tensor, own: tf.Tensor, ranking: tf.Tensor, time: tf.Tensor, live: _Beams) -> _Beams:
        """Every beam with EOS as its next token; minus infinity where it may not end. All float32 or bool [B, K]."""
        return _Beams(
            ids=_put(live.ids, time, tf.fill(tf.shape(own), self._tokens.eos)),
            token_log_probs=_put(live.token_log_probs, time, own),
            scores=tf.where(may_end, live.scores + ranking, float("-inf")),
        )

    def _finish(
        self,
        candidates: dict[FinishReason, tuple[_Beams, tf.Tensor]],
        length: tf.Tensor,
        length_penalty: tf.Tensor,
        finished: Hypotheses,
    ) -> Hypotheses:
        """The ``K`` best of the ``finished`` and of those ``candidates`` that their mask [B, K] lets in."""
        pool = [finished]
        norm = tf.cast(length, tf.float32) ** length_penalty[:, None]
        for reason, (beams, mask) in candidates.items():
            shape = tf.shape(mask)
            pool.append(
                Hypotheses(
                    ids=beams.ids,
                    lengths=tf.fill(shape, length),
                    finish_reasons=tf.fill(shape, int(reason)),
                    scores=tf.reduce_sum(beams.token_log_probs, axis=2),
                    normalized_scores=tf.where(mask, beams.scores / norm, float("-inf")),
                    token_log_probs=beams.token_log_probs,
                )
            )
        merged = tf.nest.map_structure(lambda *fields: tf.concat(fields, axis=1), *pool)
        best = tf.math.top_k(merged.normalized_scores, k=self.beam_size)
        kept = tf.nest.map_structure(lambda field: tf.gather(field, best.indices, batch_dims=1), merged)
        # A place that no candidate fills must not show one that its mask kept out.
        return without(kept, tf.math.is_inf(best.values), self._tokens.pad)


def _put(sequences: tf.Tensor, time: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """``sequences`` [B, K, C] with ``values`` [B, K] at ``time``."""
    return tf.where(tf.range(tf.shape(sequences)[2]) == time, values[:, :, None], sequences)


def _count_greater(scores: tf.Tensor, others: tf.Tensor, or_equal: bool = False) -> tf.Tensor:
    """int32 [B, K]: how many of ``others`` [B, M] beat each of ``scores`` [B, K]."""
    compare = tf.greater_equal if or_equal else tf.greater
    beats = compare(others[:, None, :], scores[:, :, None])  # [batch, beam, other]
    return tf.math.count_nonzero(beats, axis=-1, dtype=tf.int32)
