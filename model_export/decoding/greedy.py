"""Greedy search: at each position the most probable token, or in rows that ask for it one that is drawn."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from model_export.contract import FinishReason
from model_export.decoding.branches import rarely
from model_export.decoding.candidates import best_tokens, forbidding, log_normalizer
from model_export.decoding.hypotheses import Hypotheses
from model_export.decoding.loop import decode
from model_export.decoding.options import DecodingOptions, RareOptions, RowContext, TokenIds, asks_for_penalties
from model_export.decoding.penalties import end_is_allowed, penalized, unpenalized
from model_export.decoding.sampling import draw
from model_export.decoding.step import DecoderStep


def greedy_search(
    step: DecoderStep[Any],
    source_ids: tf.Tensor,
    source_lengths: tf.Tensor,
    options: DecodingOptions,
    tokens: TokenIds,
) -> Hypotheses:
    """One hypothesis per row, or ``num_hypotheses`` samples where it asks for ``do_sample``, best first.

    ``source_ids`` int32 [B, S], ``source_lengths`` int32 [B]; ``K`` is the most that a row wants.
    """
    is_special = asks_for_penalties(options) | tf.reduce_any(options.do_sample)
    return decode(step, _GreedySearch(tokens, is_special), source_ids, source_lengths, options, tokens)


class _GreedyState(NamedTuple):
    """``C`` tokens of room."""

    ids: tf.Tensor  # int32 [B, C]
    token_log_probs: tf.Tensor  # float32 [B, C]
    lengths: tf.Tensor  # int32 [B]
    finish_reasons: tf.Tensor  # int32 [B]: NONE while the row goes on
    excess: tf.Tensor  # float32 [B]: what processed logits give the tokens so far, less the score


class _GreedySearch:
    beam_size = 1
    draws = True

    def __init__(self, tokens: TokenIds, is_special: tf.Tensor) -> None:
        self._tokens = tokens
        self._is_special = is_special

    def begin(self, batch: tf.Tensor) -> _GreedyState:
        return _GreedyState(
            ids=tf.zeros([batch, 0], tf.int32),
            token_log_probs=tf.zeros([batch, 0]),
            lengths=tf.zeros([batch], tf.int32),
            finish_reasons=tf.fill([batch], int(FinishReason.NONE)),
            excess=tf.zeros([batch]),
        )

    def grow(self, state: _GreedyState, capacity: tf.Tensor) -> _GreedyState:
        padding = [[0, 0], [0, capacity - tf.shape(state.ids)[1]]]
        return state._replace(
            ids=tf.pad(state.ids, padding, constant_values=self._tokens.pad),
            token_log_probs=tf.pad(state.token_log_probs, padding),
        )

    def advance(
        self, logits: tf.Tensor, time: tf.Tensor, rows: RowContext, state: _GreedyState
    ) -> tuple[tf.Tensor, None, _GreedyState]:
        logits = logits[:, 0]  # [batch, vocabulary]
        normalizer = log_normalizer(logits)  # [batch]

        def plain() -> tuple[tf.Tensor, tf.Tensor]:
            going_on, ending, _ = unpenalized(logits, normalizer, self._tokens)
            return self._likeliest(going_on, ending, time, rows)[0], state.excess

        chosen, excess = rarely(self._is_special, lambda: self._choose(logits, normalizer, time, rows, state), plain)
        ends = chosen == self._tokens.eos
        log_prob = tf.gather(logits, chosen, batch_dims=1) - normalizer  # [batch]

        is_live = ~self.is_done(state)
        here = is_live[:, None] & (tf.range(tf.shape(state.ids)[1]) == time)  # [batch, capacity]
        cut = tf.where(time + 1 >= rows.max_new_tokens, int(FinishReason.LENGTH), int(FinishReason.NONE))
        reasons = tf.where(ends, int(FinishReason.EOS_TOKEN), cut)
        state = _GreedyState(
            ids=tf.where(here, chosen[:, None], state.ids),
            token_log_probs=tf.where(here, log_prob[:, None], state.token_log_probs),
            lengths=state.lengths + tf.cast(is_live, tf.int32),
            finish_reasons=tf.where(is_live, reasons, state.finish_reasons),
            excess=excess,
        )
        return chosen[:, None], None, state

    def _likeliest(
        self, going_on: tf.Tensor, ending: tf.Tensor, time: tf.Tensor, rows: RowContext
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The best token of each row, int32 [B], and whether it may end, bool [B]."""
        values, ids = best_tokens(going_on, 1, self._tokens.not_continuing)  # [batch, 1]
        best, token = values[:, 0], ids[:, 0]  # [batch]
        may_end = end_is_allowed(time, rows.min_new_tokens, best)
        return tf.where(may_end & (ending >= best), self._tokens.eos, token), may_end

    def _choose(
        self, logits: tf.Tensor, normalizer: tf.Tensor, time: tf.Tensor, rows: RowContext, state: _GreedyState
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The next token of each row, int32 [B], and ``excess`` with it."""
        options = RareOptions.unpack(rows.rare)
        processed = penalized(logits[:, None], normalizer[:, None], state.ids[:, None], time, options, self._tokens)
        going_on, ending, own_normalizer = (field[:, 0] for field in processed)
        likeliest, may_end = self._likeliest(going_on, ending, time, rows)
        is_eos = tf.range(tf.shape(logits)[1]) == self._tokens.eos  # [vocabulary]
        suppressed = forbidding(logits.shape[1], *self._tokens.suppressed)
        ranked = tf.where(is_eos, ending[:, None], going_on + suppressed)  # [batch, vocabulary]

        def drawn() -> tf.Tensor:
            token = draw(tf.where(is_eos & ~may_end[:, None], float("-inf"), ranked), time, options)
            return tf.where(options.do_sample, token, likeliest)

        chosen = tf.cond(tf.reduce_any(options.do_sample), drawn, lambda: likeliest)
        before = tf.gather(logits, chosen, batch_dims=1) - normalizer  # [batch]
        after = tf.gather(ranked, chosen, batch_dims=1) - own_normalizer
        return chosen, tf.where(self.is_done(state), state.excess, state.excess + after - before)

    def is_done(self, state: _GreedyState) -> tf.Tensor:
        return state.finish_reasons != int(FinishReason.NONE)

    def hypotheses(self, rows: RowContext, state: _GreedyState) -> Hypotheses:
        scores = tf.reduce_sum(state.token_log_probs, axis=1)
        normalized = (scores + state.excess) / tf.cast(state.lengths, tf.float32) ** rows.length_penalty
        single = Hypotheses(state.ids, state.lengths, state.finish_reasons, scores, normalized, state.token_log_probs)
        return tf.nest.map_structure(lambda field: field[:, None], single)
