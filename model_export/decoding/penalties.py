"""What options make of logits before a token is chosen, in any search. What is reported stays the unmodified model's.

Tokens *seen* are those of a forced prefix and those generated, without the start token, pad and EOS.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from model_export.decoding.branches import rarely
from model_export.decoding.candidates import forbidding
from model_export.decoding.options import DecodingOptions, RareOptions, TokenIds

MOST_NGRAM_SIZE = 8
"""The longest n-grams that ``no_repeat_ngram_size`` can forbid."""


class Processed(NamedTuple):
    """Logits as the options of each row make them. ``logits - normalizer`` ranks: masks do not renormalize."""

    going_on: tf.Tensor  # float32 [B, K, V]: minus infinity for what must not come; TokenIds.not_continuing count not
    ending: tf.Tensor  # float32 [B, K]: of EOS, allowed or not
    normalizer: tf.Tensor  # float32 [B, K]: log-sum-exp before anything was masked


def unpenalized(logits: tf.Tensor, normalizer: tf.Tensor, tokens: TokenIds) -> Processed:
    """Logits [B, K, V] (or [B, V]) and their log-sum-exp where no row asks for a penalty."""
    return Processed(logits, logits[..., tokens.eos], normalizer)


def penalized(
    logits: tf.Tensor, normalizer: tf.Tensor, ids: tf.Tensor, time: tf.Tensor, options: RareOptions, tokens: TokenIds
) -> Processed:
    """Repetition penalty, then masks; nothing is spent on those that no row asks for.

    Args:
        logits: float32 [B, K, V], the unmodified model's.
        normalizer: float32 [B, K], their log-sum-exp.
        ids: int32 [B, K, C], the new tokens; those before ``time`` are known.
        time: int32 scalar, number of new tokens.
        options: of the rows.
        tokens: special ids.
    """
    prefix = tf.repeat(options.seen_prefix[:, None], tf.shape(ids)[1], axis=1)  # [batch, beam, prefix]
    seen = tf.concat([prefix, ids[:, :, :time]], axis=2)  # [batch, beam, prefix + time]

    def without_repetition() -> tuple[tf.Tensor, tf.Tensor]:
        changed = penalize_repetition(logits, seen, options.repetition_penalty, tokens.pad)
        return changed, tf.reduce_logsumexp(changed, axis=-1)

    changed, normalizer = tf.cond(
        tf.reduce_any(options.repetition_penalty != 1.0), without_repetition, lambda: (logits, normalizer)
    )
    going_on, ending, _ = unpenalized(changed, normalizer, tokens)
    going_on = tf.cond(
        tf.reduce_any(options.no_repeat_ngram_size > 0),
        lambda: forbid_repeated_ngrams(going_on, seen, options.no_repeat_ngram_size, tokens.pad),
        lambda: going_on,
    )
    if tokens.unk is not None:
        without_unk = going_on + forbidding(logits.shape[-1], tokens.unk)
        going_on = tf.where(options.disable_unk[:, None, None], without_unk, going_on)
    return Processed(going_on, ending, normalizer)


def penalized_where_asked(
    is_penalized: tf.Tensor,
    logits: tf.Tensor,
    normalizer: tf.Tensor,
    ids: tf.Tensor,
    time: tf.Tensor,
    options: RareOptions,
    tokens: TokenIds,
) -> Processed:
    """``penalized`` of one beam for each row, without their axis: logits [N, V], the others accordingly.

    It is spared where no row of the call asks for it, as ``is_penalized`` (bool scalar) knows.
    """

    def changed() -> Processed:
        of_beams = [tf.expand_dims(each, 1) for each in (logits, normalizer, ids)]
        found = penalized(of_beams[0], of_beams[1], of_beams[2], time, options, tokens)
        return Processed(*(tf.squeeze(field, 1) for field in found))

    processed: Processed = rarely(is_penalized, changed, lambda: unpenalized(logits, normalizer, tokens))
    return processed


def end_is_allowed(time: tf.Tensor, min_new_tokens: tf.Tensor, best_going_on: tf.Tensor) -> tf.Tensor:
    """bool, shaped as ``best_going_on``: may EOS be token number ``time``, counted from 0.

    Not before ``min_new_tokens`` others; but what no token may continue (its best logit, float32 ``best_going_on``, is
    minus infinity) may end whenever it is.
    """
    return (time >= min_new_tokens) | (best_going_on == float("-inf"))


def with_ending(going_on: tf.Tensor, ending: tf.Tensor, tokens: TokenIds) -> tf.Tensor:
    """The logits of all tokens that may come, float32 [N, V]: ``going_on`` [N, V], with ``ending`` [N] for EOS."""
    is_eos = tf.range(tf.shape(going_on)[1]) == tokens.eos  # [vocabulary]
    suppressed = forbidding(going_on.shape[1], *tokens.suppressed)
    return tf.where(is_eos, ending[:, None], going_on + suppressed)


def seen_prefix(options: DecodingOptions, tokens: TokenIds) -> tf.Tensor:
    """int32 [B, longest prefix]: prefixes as tokens seen, right-aligned, so that what is generated follows without a
    gap; pad where there is none, and for EOS."""
    longest = tf.reduce_max(options.prefix_lengths)
    column = tf.range(longest) - (longest - options.prefix_lengths[:, None])  # [batch, longest]
    ids = tf.gather(options.prefix_ids, tf.maximum(column, 0), batch_dims=1)
    return tf.where((column >= 0) & (ids != tokens.eos), ids, tokens.pad)


def penalize_repetition(logits: tf.Tensor, seen: tf.Tensor, penalty: tf.Tensor, pad: int) -> tf.Tensor:
    """Logits of tokens seen are divided by the penalty when positive, else multiplied by it.

    Keskar et al. 2019, CTRL, https://arxiv.org/abs/1909.05858, section 4.1, in the form for logits of either sign that
    Hugging Face gave it. A token seen twice is penalized once.

    Args:
        logits: float32 [B, K, V].
        seen: int32 [B, K, W]; pad does not count.
        penalty: float32 [B].
        pad: its id.
    """
    before = tf.gather(logits, seen, batch_dims=2)  # [batch, beam, window]
    factor = penalty[:, None, None]
    after = tf.where(before > 0.0, before / factor, before * factor)
    updates = tf.where(seen == pad, before, after)
    flat = tf.tensor_scatter_nd_update(tf.reshape(logits, [-1]), _flat_indices(logits, seen), tf.reshape(updates, [-1]))
    return tf.reshape(flat, tf.shape(logits))


def forbid_repeated_ngrams(logits: tf.Tensor, seen: tf.Tensor, size: tf.Tensor, pad: int) -> tf.Tensor:
    """Minus infinity for every token that would complete an n-gram already among the tokens seen.

    Paulus et al. 2017, https://arxiv.org/abs/1705.04304, section 2.5, for trigrams.

    Args:
        logits: float32 [B, K, V].
        seen: int32 [B, K, W], the last of them last; n-grams with pad do not count.
        size: int32 [B], 0..8; 0: any n-gram may come again, 1: no token may.
        pad: its id.
    """
    reach = MOST_NGRAM_SIZE - 1
    width = tf.shape(seen)[2]
    padded = tf.pad(seen, [[0, 0], [0, 0], [reach, 0]], constant_values=pad)
    windows = tf.gather(padded, tf.range(width)[:, None] + tf.range(reach), axis=2)  # [batch, beam, window, reach]
    last = padded[:, :, None, width:]  # [batch, beam, 1, reach]
    counts = tf.range(reach, 0, -1) < size[:, None]  # [batch, reach]: the n - 1 tokens before
    agrees = (windows == last) & (last != pad)
    completes = tf.reduce_all(agrees | ~counts[:, None, None, :], axis=3)  # [batch, beam, window]
    forbidden = completes & (seen != pad) & (size > 0)[:, None, None]
    limits = tf.reshape(tf.where(forbidden, float("-inf"), float("inf")), [-1])
    flat = tf.tensor_scatter_nd_min(tf.reshape(logits, [-1]), _flat_indices(logits, seen), limits)
    return tf.reshape(flat, tf.shape(logits))


def _flat_indices(logits: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """int32 [B * K * W, 1]: where ``ids`` [B, K, W] stand in the flattened ``logits`` [B, K, V]."""
    shape = tf.shape(logits)
    first = tf.range(shape[0] * shape[1]) * shape[2]  # [batch * beam]
    return tf.reshape(tf.reshape(first, [shape[0], shape[1], 1]) + ids, [-1, 1])
