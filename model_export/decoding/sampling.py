"""Drawing tokens: which of them, and the noise.

Every draw takes one uniform number that depends on the row's seed, the sample's number and the token's position alone,
so that a row draws the same in any batch, and a decode resumed from its own prefix goes on drawing the same.
"""

from __future__ import annotations

import tensorflow as tf

from model_export.decoding.options import RareOptions

_LOOKS = (128, 2048)
"""Likeliest tokens among which ``top_p`` is looked for before all are sorted, which takes ten times as long."""
_LEAST_TEMPERATURE = 1e-30
"""Below it a difference of logits overflows, and threads that flush denormal numbers divide by zero."""


def draw(logits: tf.Tensor, time: tf.Tensor, options: RareOptions) -> tf.Tensor:
    """int32 [B]: one token for every row, whether it asks for it or not, by inversion of its distribution.

    Args:
        logits: float32 [B, V], minus infinity for what must not come.
        time: int32 scalar, number of new tokens before this one.
        options: of the rows.
    """
    temperature = tf.maximum(options.temperature, _LEAST_TEMPERATURE)[:, None]
    scaled = (logits - tf.reduce_max(logits, axis=1, keepdims=True)) / temperature  # [batch, vocabulary], at most 0
    restricts = options.do_sample & ((options.top_k > 0) | (options.top_p < 1.0))
    scaled = tf.cond(tf.reduce_any(restricts), lambda: keep_likeliest(scaled, options), lambda: scaled)
    # Always in the order of the vocabulary: what batch-mates ask for must not change where a number falls.
    cumulative = tf.cumsum(tf.cast(tf.exp(scaled), tf.float64), axis=1)  # [batch, vocabulary]
    total = cumulative[:, -1]
    noise = uniform(options.seed, options.sample_numbers, options.prefix_lengths + time)
    target = tf.minimum(noise * total, total * (1.0 - 2.0**-52))  # rounding must not reach past the last token
    chosen = tf.searchsorted(cumulative, target[:, None], side="right")[:, 0]
    return tf.minimum(chosen, tf.shape(logits)[1] - 1)  # [batch]


def keep_likeliest(scaled: tf.Tensor, options: RareOptions) -> tf.Tensor:
    """Minus infinity for all but the ``top_k`` likeliest tokens, and of these for all but the fewest of the likeliest
    whose probabilities sum to ``top_p`` (Holtzman et al. 2019, https://arxiv.org/abs/1904.09751).

    The lower id counts as likelier where two are equal.

    Args:
        scaled: float32 [B, V]: logits, the greatest of each row 0.
        options: of the rows.
    """
    vocabulary_size = tf.shape(scaled)[1]
    top_k = tf.where(options.do_sample, tf.minimum(options.top_k, vocabulary_size), 0)[:, None]  # [batch, 1]
    top_p = tf.where(options.do_sample, options.top_p, 1.0)[:, None]
    has_k, has_p = top_k > 0, top_p < 1.0

    first_look = tf.where(has_p & ~has_k, tf.minimum(_LOOKS[0], vocabulary_size), 0)
    best = tf.math.top_k(scaled, k=tf.reduce_max(tf.maximum(top_k, first_look)))

    def within_p() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        needed = tf.cast(top_p, tf.float64)
        everything = tf.reduce_sum(_probabilities(scaled), axis=1, keepdims=True)
        # The margin is for rounding: another look that was not needed finds the same.
        wanted = tf.where(has_k | ~has_p, tf.constant(0.0, tf.float64), needed * everything * (1.0 + 1e-9))
        values, indices = _look_on(scaled, wanted, tuple(best), (*_LOOKS[1:], vocabulary_size))
        mass = tf.where(_within_k(values, top_k), _probabilities(values), 0.0)
        before = tf.cumsum(mass, axis=1, exclusive=True)  # [batch, candidate]
        total = tf.where(has_k, before[:, -1:] + mass[:, -1:], everything)
        return values, indices, ~has_p | (before < needed * total)

    values, indices, is_within_p = tf.cond(
        tf.reduce_any(has_p), within_p, lambda: (*best, tf.ones_like(best.values, tf.bool))
    )
    kept = tf.where(_within_k(values, top_k) & is_within_p, values, float("-inf"))
    flat = tf.reshape(indices + vocabulary_size * tf.range(tf.shape(scaled)[0])[:, None], [-1, 1])
    nothing = tf.fill([tf.size(scaled)], float("-inf"))
    likeliest = tf.reshape(tf.tensor_scatter_nd_update(nothing, flat, tf.reshape(kept, [-1])), tf.shape(scaled))
    return tf.where(has_k | has_p, likeliest, scaled)


def _look_on(
    scaled: tf.Tensor, wanted: tf.Tensor, best: tuple[tf.Tensor, ...], sizes: tuple[int | tf.Tensor, ...]
) -> tuple[tf.Tensor, ...]:
    """Values and indices of the likeliest tokens: ``best``, or so many more as it takes for the probability ``wanted``.

    That is float64 [B, 1]. Of ``sizes`` the first that has it in every row is taken, else the last.
    """
    if not sizes:
        return best
    size, *others = sizes

    def more() -> tuple[tf.Tensor, ...]:
        width = tf.maximum(tf.shape(best[0])[1], size)  # another row's top_k may want more already
        found = tf.math.top_k(scaled, tf.minimum(width, tf.shape(scaled)[1]))
        return _look_on(scaled, wanted, tuple(found), tuple(others))

    is_enough = tf.reduce_all(tf.reduce_sum(_probabilities(best[0]), axis=1, keepdims=True) >= wanted)
    enough: tuple[tf.Tensor, ...] = tf.cond(is_enough, lambda: best, more)
    return enough


def _within_k(ordered: tf.Tensor, top_k: tf.Tensor) -> tf.Tensor:
    """bool [B, N]: which of the candidates [B, N], likeliest first, are among the first ``top_k`` [B, 1]; 0: all."""
    return (top_k == 0) | (tf.range(tf.shape(ordered)[1]) < top_k)


def _probabilities(scaled: tf.Tensor) -> tf.Tensor:
    """float64, not normalized."""
    return tf.cast(tf.exp(scaled), tf.float64)


def uniform(seeds: tf.Tensor, sample_numbers: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """float64 [B] in [0, 1): a function of its int64 and int32 arguments [B] alone, of 53 random bits.

    A counter-based generator (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405): number ``position`` of the
    SplitMix64 generator whose state is number ``sample_number`` of the one whose state is the seed.
    """
    state = splitmix64(tf.bitcast(seeds, tf.uint64), sample_numbers)
    bits = tf.bitwise.right_shift(splitmix64(state, positions), tf.constant(11, tf.uint64))
    return tf.cast(tf.bitcast(bits, tf.int64), tf.float64) * 2.0**-53


def splitmix64(states: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """uint64 [B]: output number ``numbers`` int32 [B], counted from 0, of generators with ``states`` uint64 [B].

    Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators",
    https://doi.org/10.1145/2714064.2660195, with the constants of Java's SplittableRandom.
    """
    steps = tf.bitcast(tf.cast(numbers, tf.int64) + 1, tf.uint64)
    mixed = states + steps * tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = _xor_shifted(mixed, shift) * tf.constant(factor, tf.uint64)
    return _xor_shifted(mixed, 31)


def _xor_shifted(values: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(values, tf.bitwise.right_shift(values, tf.constant(shift, tf.uint64)))
