"""Assertions inside the graph: what a signature refuses, with a message that says what would be right.

TensorFlow raises them as INVALID_ARGUMENT, here and through TF Serving. Shapes are checked before values, because
comparing rows that do not correspond would fail with a message about broadcasting.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from model_export.contract import Limits
from model_export.decoding.penalties import MOST_NGRAM_SIZE

_MOST_LENGTH_PENALTY = 10  # ``length ** length_penalty`` is neither 0 nor infinite in float32
_MOST_FACTOR = 100  # more than anybody wants of a temperature or a repetition penalty
_LEAST_PENALTY = 0.01  # with much less, penalized logits lose their last digits, then overflow


def require(condition: tf.Tensor, message: str, *values: tf.Tensor) -> tf.Operation:
    """Assert that ``condition`` holds everywhere, as no comparison with NaN does; ``values`` follow the message."""
    return tf.debugging.Assert(tf.reduce_all(condition), [message, *values], summarize=16)


def guarded(tensor: tf.Tensor, *checks: tf.Operation) -> tf.Tensor:
    """The tensor, not available before every check has passed."""
    with tf.control_dependencies(checks):
        return tf.identity(tensor)


def check_rows(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """At least one row, and as many in every input that is not a scalar."""
    batched = {name: tensor for name, tensor in inputs.items() if tensor.shape.rank != 0}
    first, *others = batched
    rows = tf.shape(batched[first])[0]
    checks = [require(rows >= 1, f"{first} is empty: a call needs at least one row")]
    if others:
        found = tf.stack([tf.shape(batched[name])[0] for name in others])
        wrong = tf.boolean_mask(others, found != rows)
        checks.append(require(found == rows, f"inputs that differ from {first} in their number of rows:", wrong))
    return {name: guarded(tensor, *checks) for name, tensor in inputs.items()}


def check_ids(
    ids: tf.Tensor, lengths: tf.Tensor, vocabulary_size: int, prefix: str = ""
) -> tuple[tf.Tensor, tf.Tensor]:
    """Lengths within the table, ids within the vocabulary.

    Args:
        ids: int32 [B, T]; anything may stand at and past a length.
        lengths: int32 [B].
        vocabulary_size: ids are below it.
        prefix: what the messages put before ``ids`` and ``lengths``, such as ``source_``.

    Returns:
        ``ids`` with 0 past the lengths, and ``lengths``.
    """
    columns = tf.shape(ids)[1]
    inside = (lengths >= 0) & (lengths <= columns)
    lengths = guarded(lengths, require(inside, f"{prefix}lengths must be at most the columns of {prefix}ids:", lengths))
    ids = tf.where(tf.sequence_mask(lengths, columns), ids, 0)
    known = (ids >= 0) & (ids < vocabulary_size)
    unknown = tf.boolean_mask(ids, ~known)
    ids = guarded(ids, require(known, f"{prefix}ids must be 0..{vocabulary_size - 1}:", unknown))
    return ids, lengths


def check_source_lengths(source_lengths: tf.Tensor, limits: Limits) -> tf.Tensor:
    """int32 [B], framing counted: 1..max_source_tokens."""
    most = limits.max_source_tokens
    good = (source_lengths >= 1) & (source_lengths <= most)
    return guarded(source_lengths, require(good, f"a source must have 1..{most} tokens, EOS counted:", source_lengths))


def check_target_lengths(target_lengths: tf.Tensor, limits: Limits) -> tf.Tensor:
    """int32 [B]: 1..max_target_tokens; a target that ends counts its EOS."""
    most = limits.max_target_tokens
    good = (target_lengths >= 1) & (target_lengths <= most)
    return guarded(target_lengths, require(good, f"a target must have 1..{most} tokens, EOS counted:", target_lengths))


def check_options(options: Mapping[str, tf.Tensor], limits: Limits) -> dict[str, tf.Tensor]:
    """Every option within its bounds; a ``max_new_tokens`` of 0 replaced by the default (or what the prefix leaves).

    Args:
        options: those of ``contract.OPTIONS``, each [B], with ``prefix_ids`` [B, P] and ``prefix_lengths`` [B].
        limits: the model's bounds.
    """
    room = limits.max_target_tokens - options["prefix_lengths"]  # [B]
    asked = options["max_new_tokens"]
    default = tf.minimum(limits.default_max_new_tokens, room)
    options = {**options, "max_new_tokens": tf.where(asked == 0, default, asked)}
    checks = [
        *_beam_checks(options, limits),
        *_length_checks(options, room, limits),
        *_repetition_checks(options),
        *_sampling_checks(options),
    ]
    return {name: guarded(tensor, *checks) for name, tensor in options.items()}


def _beam_checks(options: Mapping[str, tf.Tensor], limits: Limits) -> list[tf.Operation]:
    beam_size, hypotheses, most = options["beam_size"], options["num_hypotheses"], limits.max_beam_size
    samples = options["do_sample"]
    return [
        require((beam_size >= 1) & (beam_size <= most), f"beam_size must be 1..{most}:", beam_size),
        require(~samples | (beam_size == 1), "do_sample needs beam_size 1: beams do not draw, beam_size is", beam_size),
        require(
            samples | ((hypotheses >= 1) & (hypotheses <= beam_size)),
            "num_hypotheses must be 1..beam_size:",
            hypotheses,
        ),
        require(
            ~samples | ((hypotheses >= 1) & (hypotheses <= most)),
            f"num_hypotheses must be 1..{most} with do_sample:",
            hypotheses,
        ),
    ]


def _length_checks(options: Mapping[str, tf.Tensor], room: tf.Tensor, limits: Limits) -> list[tf.Operation]:
    most, least = options["max_new_tokens"], options["min_new_tokens"]
    prefix_lengths, longest = options["prefix_lengths"], limits.max_target_tokens
    penalty = options["length_penalty"]
    return [
        require(tf.shape(options["prefix_ids"])[1] >= 1, "prefix_ids must have at least one column"),
        require(room >= 1, f"a prefix must be shorter than {longest} tokens:", prefix_lengths),
        require(most >= 1, "max_new_tokens must be 1 or more, or 0 for the default:", most),
        require(most <= room, f"prefix_lengths + max_new_tokens must be at most {longest}:", prefix_lengths, most),
        require(least >= 0, "min_new_tokens must be 0 or more:", least),
        require(least <= most, "min_new_tokens must be at most max_new_tokens:", least, most),
        require(
            tf.abs(penalty) <= _MOST_LENGTH_PENALTY,
            f"length_penalty must be {-_MOST_LENGTH_PENALTY}..{_MOST_LENGTH_PENALTY}:",
            penalty,
        ),
    ]


def _repetition_checks(options: Mapping[str, tf.Tensor]) -> list[tf.Operation]:
    penalty, size = options["repetition_penalty"], options["no_repeat_ngram_size"]
    return [
        require(
            (penalty >= _LEAST_PENALTY) & (penalty <= _MOST_FACTOR),
            f"repetition_penalty must be {_LEAST_PENALTY}..{_MOST_FACTOR}:",
            penalty,
        ),
        require((size >= 0) & (size <= MOST_NGRAM_SIZE), f"no_repeat_ngram_size must be 0..{MOST_NGRAM_SIZE}:", size),
    ]


def _sampling_checks(options: Mapping[str, tf.Tensor]) -> list[tf.Operation]:
    """Held by rows that do not sample too: a value that is wrong is a mistake wherever it stands."""
    temperature, top_k, top_p = options["temperature"], options["top_k"], options["top_p"]
    return [
        require(
            (temperature > 0.0) & (temperature <= _MOST_FACTOR),
            f"temperature must be more than 0 and at most {_MOST_FACTOR}:",
            temperature,
        ),
        require(top_k >= 0, "top_k must be 0 or more:", top_k),
        require((top_p > 0.0) & (top_p <= 1.0), "top_p must be more than 0 and at most 1:", top_p),
    ]
