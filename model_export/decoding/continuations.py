"""How beams may go on: the best tokens of each, by what its row asks for."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from model_export.decoding.candidates import best_tokens
from model_export.decoding.options import RareOptions, TokenIds
from model_export.decoding.penalties import Processed, end_is_allowed, penalized_where_asked, with_ending
from model_export.decoding.sampling import draw


class Continuations(NamedTuple):
    """Of ``N`` beams, ``C`` tokens each; log-probabilities are by the processed logits."""

    ids: tf.Tensor  # int32 [N, C]: those that go on, best first
    log_probs: tf.Tensor  # float32 [N, C]: minus infinity for those that must not come
    ending: tf.Tensor  # float32 [N]: of EOS, allowed or not


class BeamsSoFar(NamedTuple):
    """What continuations depend on."""

    logits: tf.Tensor  # float32 [N, V], the unmodified model's
    normalizer: tf.Tensor  # float32 [N], their log-sum-exp
    ids: tf.Tensor  # int32 [N, T], new tokens
    min_new_tokens: tf.Tensor  # int32 [N], of the beams' rows
    rare: tf.Tensor  # int64 [N, 10 + P], RareOptions of the beams' rows, packed


def best_continuations(processed: Processed, count: tf.Tensor, tokens: TokenIds) -> Continuations:
    """The ``count`` best of each beam, given logits [N, V]."""
    values, ids = best_tokens(processed.going_on, count, tokens.not_continuing)  # [beam, count]
    log_probs = values - tf.expand_dims(processed.normalizer, 1)
    return Continuations(ids, log_probs, processed.ending - processed.normalizer)


def where_asked(
    plain: Continuations,
    beams: BeamsSoFar,
    is_live: tf.Tensor,
    is_penalized: tf.Tensor,
    time: tf.Tensor,
    tokens: TokenIds,
) -> Continuations:
    """``plain`` but for the live beams of rows that ask for penalties, masks or a draw.

    Args:
        plain: by the unmodified logits.
        beams: all of them.
        is_live: bool [N], of the beams' rows.
        is_penalized: bool scalar, whether any row asks for a penalty or a mask.
        time: int32 scalar, number of new tokens.
        tokens: special ids.
    """
    asking = tf.where(is_live & RareOptions.asks(beams.rare))[:, 0]  # [asking]

    def changed() -> Continuations:
        theirs = BeamsSoFar(*(tf.gather(field, asking) for field in beams))
        found = _asked_for(theirs, tf.shape(plain.ids)[1], is_penalized, time, tokens)
        return Continuations(
            *(tf.tensor_scatter_nd_update(one, asking[:, None], own) for one, own in zip(plain, found, strict=True))
        )

    changed_where_asked: Continuations = tf.cond(tf.size(asking) > 0, changed, lambda: plain)
    return changed_where_asked


def _asked_for(
    beams: BeamsSoFar, count: tf.Tensor, is_penalized: tf.Tensor, time: tf.Tensor, tokens: TokenIds
) -> Continuations:
    options = RareOptions.unpack(beams.rare)
    logits, normalizer, ids, min_new_tokens, _ = beams
    processed = penalized_where_asked(is_penalized, logits, normalizer, ids, time, options, tokens)
    found = best_continuations(processed, count, tokens)

    def drawn() -> Continuations:
        may_end = end_is_allowed(time, min_new_tokens, found.log_probs[:, 0])
        ending = tf.where(may_end, processed.ending, float("-inf"))
        token = draw(with_ending(processed.going_on, ending, tokens), time, options)  # [beam]
        return _only(token, processed, found, options.do_sample, tokens)

    return tf.cond(tf.reduce_any(options.do_sample), drawn, lambda: found)


def _only(
    token: tf.Tensor, processed: Processed, found: Continuations, is_sampled: tf.Tensor, tokens: TokenIds
) -> Continuations:
    """``found``, but where ``is_sampled`` bool [N] nothing except ``token`` int32 [N] may come: a draw is a mask."""
    ends = token == tokens.eos  # [beam]
    log_prob = tf.gather(processed.going_on, token, batch_dims=1) - processed.normalizer  # [beam]
    is_first = tf.range(tf.shape(found.ids)[1]) == 0  # [count]
    of_token = tf.where(is_first & ~ends[:, None], log_prob[:, None], float("-inf"))  # [beam, count]
    return Continuations(
        tf.where(is_sampled[:, None], token[:, None], found.ids),
        tf.where(is_sampled[:, None], of_token, found.log_probs),
        tf.where(is_sampled & ~ends, float("-inf"), found.ending),
    )
