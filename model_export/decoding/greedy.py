"""Greedy search: at each position the most probable token."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from model_export.contract import FinishReason
from model_export.decoding.hypotheses import Hypotheses
from model_export.decoding.loop import decode
from model_export.decoding.options import DecodingOptions, TokenIds
from model_export.decoding.penalties import continuation_bias, end_is_allowed
from model_export.decoding.step import DecoderStep


def greedy_search(
    step: DecoderStep[Any],
    source_ids: tf.Tensor,
    source_lengths: tf.Tensor,
    options: DecodingOptions,
    tokens: TokenIds,
) -> Hypotheses:
    """One hypothesis per row (K = 1). ``source_ids`` int32 [B, S], ``source_lengths`` int32 [B]."""
    return decode(step, _GreedySearch(tokens), source_ids, source_lengths, options, tokens)


class _GreedyState(NamedTuple):
    """``C`` tokens of room."""

    ids: tf.Tensor  # int32 [B, C]
    token_log_probs: tf.Tensor  # float32 [B, C]
    lengths: tf.Tensor  # int32 [B]
    finish_reasons: tf.Tensor  # int32 [B]: NONE while the row goes on


class _GreedySearch:
    beam_size = 1

    def __init__(self, tokens: TokenIds) -> None:
        self._tokens = tokens

    def begin(self, options: DecodingOptions) -> _GreedyState:
        batch = tf.shape(options.max_new_tokens)[0]
        return _GreedyState(
            ids=tf.zeros([batch, 0], tf.int32),
            token_log_probs=tf.zeros([batch, 0]),
            lengths=tf.zeros([batch], tf.int32),
            finish_reasons=tf.fill([batch], int(FinishReason.NONE)),
        )

    def grow(self, state: _GreedyState, capacity: tf.Tensor) -> _GreedyState:
        padding = [[0, 0], [0, capacity - tf.shape(state.ids)[1]]]
        return state._replace(
            ids=tf.pad(state.ids, padding, constant_values=self._tokens.pad),
            token_log_probs=tf.pad(state.token_log_probs, padding),
        )

    def advance(
        self, logits: tf.Tensor, time: tf.Tensor, options: DecodingOptions, state: _GreedyState
    ) -> tuple[tf.Tensor, None, _GreedyState]:
        logits = logits[:, 0]  # [batch, vocabulary]
        goes_on = tf.math.top_k(logits + continuation_bias(self._tokens, logits.shape[-1]), k=1)
        end = logits[:, self._tokens.eos]
        ends = (end >= goes_on.values[:, 0]) & end_is_allowed(time, options.min_new_tokens)  # [batch]
        chosen = tf.where(ends, self._tokens.eos, goes_on.indices[:, 0])
        log_prob = tf.where(ends, end, goes_on.values[:, 0]) - tf.reduce_logsumexp(logits, axis=-1)

        is_live = ~self.is_done(state)
        here = is_live[:, None] & (tf.range(tf.shape(state.ids)[1]) == time)  # [batch, capacity]
        cut = tf.where(time + 1 >= options.max_new_tokens, int(FinishReason.LENGTH), int(FinishReason.NONE))
        reasons = tf.where(ends, int(FinishReason.EOS_TOKEN), cut)
        state = state._replace(
            ids=tf.where(here, chosen[:, None], state.ids),
            token_log_probs=tf.where(here, log_prob[:, None], state.token_log_probs),
            lengths=state.lengths + tf.cast(is_live, tf.int32),
            finish_reasons=tf.where(is_live, reasons, state.finish_reasons),
        )
        return chosen[:, None], None, state

    def is_done(self, state: _GreedyState) -> tf.Tensor:
        return state.finish_reasons != int(FinishReason.NONE)

    def hypotheses(self, options: DecodingOptions, state: _GreedyState) -> Hypotheses:
        scores = tf.reduce_sum(state.token_log_probs, axis=1)
        normalized = scores / tf.cast(state.lengths, tf.float32) ** options.length_penalty
        single = Hypotheses(state.ids, state.lengths, state.finish_reasons, scores, normalized, state.token_log_probs)
        return tf.nest.map_structure(lambda field: field[:, None], single)
