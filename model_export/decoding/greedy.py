"""Greedy search: at each position the most probable token, or in rows that ask for it one that is drawn."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from model_export.contract import FinishReason
from model_export.decoding.branches import rarely
from model_export.decoding.candidates import best_token, log_normalizer
from model_export.decoding.hypotheses import Hypotheses, growing
from model_export.decoding.loop import decode
from model_export.decoding.options import DecodingOptions, RareOptions, RowContext, TokenIds, asks_for_penalties
from model_export.decoding.penalties import end_is_allowed, penalized_where_asked, with_ending
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
    return decode(step, _GreedySearch(tokens, options), source_ids, source_lengths, options, tokens)


class _GreedyState(NamedTuple):
    """``C`` tokens so far; those past its length mean nothing where a row is done."""

    ids: tf.Tensor  # int32 [B, C]
    token_log_probs: tf.Tensor  # float32 [B, C]
    lengths: tf.Tensor  # int32 [B]
    is_live: tf.Tensor  # bool [B]
    excess: tf.Tensor  # float32 [B]: what processed logits give the tokens so far, less the score


class _GreedySearch:
    beam_size = 1

    def __init__(self, tokens: TokenIds, options: DecodingOptions) -> None:
        self._tokens = tokens
        self._is_penalized = asks_for_penalties(options)
        self._is_special = self._is_penalized | tf.reduce_any(options.do_sample)

    def begin(self, owners: tf.Tensor) -> _GreedyState:
        batch = tf.shape(owners)[0]
        return _GreedyState(
            ids=growing(tf.zeros([batch, 0], tf.int32)),
            token_log_probs=growing(tf.zeros([batch, 0])),
            lengths=tf.zeros([batch], tf.int32),
            is_live=tf.ones([batch], tf.bool),
            excess=tf.zeros([batch]),
        )

    def places(self, state: _GreedyState) -> None:
        return None

    def advance(
        self, logits: tf.Tensor, time: tf.Tensor, rows: RowContext, places: None, state: _GreedyState
    ) -> tuple[tf.Tensor, None, _GreedyState]:
        normalizer = log_normalizer(logits)  # [batch]

        best, token = best_token(logits, self._tokens.not_continuing)  # [batch]
        ends = (time >= rows.min_new_tokens) & (logits[:, self._tokens.eos] >= best)
        likeliest = self._unless_it_ends(token, ends)
        chosen, excess = rarely(
            self._is_special,
            lambda: self._choose_where_asked(likeliest, logits, normalizer, time, rows, state),
            lambda: (likeliest, state.excess),
        )
        log_prob = tf.gather(logits, chosen, batch_dims=1) - normalizer  # [batch]
        goes_on = (chosen != self._tokens.eos) & (time + 1 < rows.max_new_tokens)
        state = _GreedyState(
            ids=tf.concat([state.ids, tf.expand_dims(chosen, 1)], axis=1),
            token_log_probs=tf.concat([state.token_log_probs, tf.expand_dims(log_prob, 1)], axis=1),
            lengths=state.lengths + tf.cast(state.is_live, tf.int32),
            is_live=state.is_live & goes_on,
            excess=excess,
        )
        return chosen, None, state

    def _unless_it_ends(self, token: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
        """``token`` int32 [B], or EOS where ``ends`` bool [B]; of a tensor and a number, to choose is slower."""
        return token + tf.cast(ends, tf.int32) * (self._tokens.eos - token)

    def _choose_where_asked(
        self,
        likeliest: tf.Tensor,
        logits: tf.Tensor,
        normalizer: tf.Tensor,
        time: tf.Tensor,
        rows: RowContext,
        state: _GreedyState,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The next token of each row, int32 [B], and ``excess``: ``likeliest`` but in live rows with options."""
        asking = tf.where(state.is_live & RareOptions.asks(rows.rare))[:, 0]  # [asking]

        def choose() -> tuple[tf.Tensor, tf.Tensor]:
            theirs = (
                tf.gather(each, asking) for each in (logits, normalizer, state.ids, rows.min_new_tokens, rows.rare)
            )
            chosen, excess = self._choose(time, *theirs)
            places = asking[:, None]  # [asking, 1]
            return (
                tf.tensor_scatter_nd_update(likeliest, places, chosen),
                tf.tensor_scatter_nd_add(state.excess, places, excess),
            )

        return tf.cond(tf.size(asking) > 0, choose, lambda: (likeliest, state.excess))

    def _choose(
        self,
        time: tf.Tensor,
        logits: tf.Tensor,
        normalizer: tf.Tensor,
        ids: tf.Tensor,
        min_new_tokens: tf.Tensor,
        rare: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The next token of each row by its options, int32 [N], and what it adds to ``excess``, float32 [N]."""
        options = RareOptions.unpack(rare)
        going_on, ending, own_normalizer = penalized_where_asked(
            self._is_penalized, logits, normalizer, ids, time, options, self._tokens
        )
        best, token = best_token(going_on, self._tokens.not_continuing)  # [row]
        may_end = end_is_allowed(time, min_new_tokens, best)
        likeliest = self._unless_it_ends(token, may_end & (ending >= best))
        ranked = with_ending(going_on, ending, self._tokens)

        def drawn() -> tf.Tensor:
            token = draw(with_ending(going_on, tf.where(may_end, ending, float("-inf")), self._tokens), time, options)
            return tf.where(options.do_sample, token, likeliest)

        chosen = tf.cond(tf.reduce_any(options.do_sample), drawn, lambda: likeliest)
        before = tf.gather(logits, chosen, batch_dims=1) - normalizer  # [row]
        after = tf.gather(ranked, chosen, batch_dims=1) - own_normalizer
        return chosen, after - before

    def is_live(self, state: _GreedyState) -> tf.Tensor:
        return state.is_live

    def hypotheses(self, rows: RowContext, state: _GreedyState) -> Hypotheses:
        is_ended = tf.gather(state.ids, state.lengths - 1, batch_dims=1) == self._tokens.eos  # [batch]
        reasons = tf.where(is_ended, int(FinishReason.EOS_TOKEN), int(FinishReason.LENGTH))
        counts = tf.sequence_mask(state.lengths, tf.shape(state.ids)[1])  # [batch, capacity]
        log_probs = tf.where(counts, state.token_log_probs, 0.0)
        scores = tf.reduce_sum(log_probs, axis=1)
        single = Hypotheses(
            ids=tf.where(counts, state.ids, self._tokens.pad),
            lengths=state.lengths,
            finish_reasons=tf.where(state.is_live, int(FinishReason.NONE), reasons),
            scores=scores,
            normalized_scores=(scores + state.excess) / tf.cast(state.lengths, tf.float32) ** rows.length_penalty,
            token_log_probs=log_probs,
        )
        return tf.nest.map_structure(lambda field: field[:, None], single)
