"""Several samples of a row: decoded as rows of their own, after the encoder and the prefix were read once."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from model_export.decoding.hypotheses import Hypotheses, no_hypotheses
from model_export.decoding.options import DecodingOptions
from model_export.decoding.step import DecoderStep


class Samples(NamedTuple):
    """The ``N`` rows that are decoded for ``B`` rows asked for."""

    owners: tf.Tensor  # int32 [N]: whose sample it is
    numbers: tf.Tensor  # int32 [N]: which of them, counted from 0


def one_each(options: DecodingOptions) -> Samples:
    """Every row is decoded once."""
    rows = tf.range(tf.shape(options.num_hypotheses)[0])
    return Samples(rows, tf.zeros_like(rows))


def any_wants_several(options: DecodingOptions) -> tf.Tensor:
    """bool scalar."""
    return tf.reduce_any(_wanted(options) > 1)


def several(step: DecoderStep[Any], options: DecodingOptions, model: Any) -> tuple[Samples, DecodingOptions, Any]:
    """The samples that rows want, with options and model state of the rows ``N``."""
    wanted = _wanted(options)
    owners = tf.repeat(one_each(options).owners, wanted)  # [N]
    numbers = tf.range(tf.shape(owners)[0]) - tf.gather(tf.cumsum(wanted, exclusive=True), owners)
    repeated = DecodingOptions(*(tf.gather(field, owners) for field in options))
    return Samples(owners, numbers), repeated, step.select(model, owners)


def regroup(decoded: Hypotheses, samples: Samples, options: DecodingOptions, pad: int) -> Hypotheses:
    """``decoded`` [N, K] as the hypotheses [B, W] of their owners, best first; ``options`` [B] are what these asked.

    ``W`` is ``K``, or the most samples that a row wants. Of a sample only the first of its ``K`` places is filled.
    """
    rows, (_, beams, capacity) = tf.shape(options.num_hypotheses)[0], tf.unstack(tf.shape(decoded.ids))
    places = tf.maximum(beams, tf.reduce_max(_wanted(options)))
    is_filled = decoded.lengths > 0  # [N, K]
    owners = tf.repeat(samples.owners[:, None], beams, axis=1)  # [N, K]
    targets = tf.stack([owners, samples.numbers[:, None] + tf.range(beams)], axis=2)  # [N, K, 2]
    targets = tf.boolean_mask(targets, is_filled)
    placed = tf.nest.map_structure(
        lambda empty, field: tf.tensor_scatter_nd_update(empty, targets, tf.boolean_mask(field, is_filled)),
        no_hypotheses(rows, places, capacity, pad),
        decoded,
    )
    best_first = tf.math.top_k(placed.normalized_scores, k=places).indices  # [B, W]
    grouped: Hypotheses = tf.nest.map_structure(lambda field: tf.gather(field, best_first, batch_dims=1), placed)
    return grouped


def _wanted(options: DecodingOptions) -> tf.Tensor:
    """int32 [B]: how often each row is decoded."""
    return tf.where(options.do_sample, options.num_hypotheses, 1)
