"""Draws: their distribution, and what they depend on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from model_export.decoding import greedy_search
from model_export.decoding.options import RareOptions
from model_export.decoding.sampling import draw, keep_likeliest, splitmix64, uniform
from tests.support.scripted_step import BOS, EOS, TOKENS, A, B, C, markov_step, options, random_step, sources

DRAWS = 20_000
PROBABILITIES = {A: 0.4, B: 0.3, C: 0.2, EOS: 0.1}


def asked(rows: int, **changes: object) -> RareOptions:
    """Rows that sample."""
    plain = options(rows, **{"do_sample": True, **changes})
    own = {name: getattr(plain, name) for name in RareOptions._fields if name in plain._fields}
    nothing = tf.zeros([rows], tf.int32)
    return RareOptions(**own, sample_numbers=nothing, seen_prefix=nothing[:, None])


def assert_fits(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
    """Pearson's chi-square test at the 0.1 % level, with Wilson and Hilferty's approximation of the quantile."""
    assert counts[probabilities == 0.0].sum() == 0
    possible = probabilities > 0.0
    expected = counts.sum() * probabilities[possible]
    assert expected.min() >= 5.0
    statistic = float(((counts[possible] - expected) ** 2 / expected).sum())
    freedom = int(possible.sum()) - 1
    assert statistic < freedom * (1.0 - 2.0 / (9.0 * freedom) + 3.09 * (2.0 / (9.0 * freedom)) ** 0.5) ** 3


def assert_independent(first: NDArray[np.int64], second: NDArray[np.int64], size: int, each: list[float]) -> None:
    """Pairs of draws from the same distribution ``each`` over ``size`` values."""
    counts = np.bincount(first * size + second, minlength=size * size)
    assert_fits(counts, np.outer(each, each).ravel())


def as_list(probabilities: Mapping[int, float]) -> list[float]:
    return [probabilities.get(token, 0.0) for token in range(7)]


# --- noise ------------------------------------------------------------------------------------------------------------


def test_splitmix64_gives_the_published_numbers() -> None:
    states = tf.fill([5], tf.constant(1234567, tf.uint64))
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(states, tf.range(5)).numpy().tolist() == expected


@pytest.mark.parametrize("varied", ["seeds", "samples", "positions"])
def test_noise_is_uniform_and_neighbours_are_independent(varied: str) -> None:
    steps, still = tf.range(DRAWS), tf.fill([DRAWS], 5)
    seeds, samples, positions = (steps if name == varied else still for name in ("seeds", "samples", "positions"))
    noise = uniform(tf.cast(seeds, tf.int64) - 17, samples, positions).numpy()
    assert (noise >= 0.0).all()
    assert (noise < 1.0).all()
    bins = (noise * 10).astype(np.int64)
    assert_fits(np.bincount(bins, minlength=10), np.full(10, 0.1))
    assert_independent(bins[:-1:2], bins[1::2], 10, [0.1] * 10)


def test_noise_takes_any_seed() -> None:
    seeds = tf.constant([0, -1, 2**63 - 1, -(2**63), 1], tf.int64)
    noise = uniform(seeds, tf.zeros([5], tf.int32), tf.zeros([5], tf.int32)).numpy()
    assert len(set(noise.tolist())) == 5


# --- distributions ----------------------------------------------------------------------------------------------------

# By hand, from 0.4, 0.3, 0.2, 0.1.
DISTRIBUTIONS: dict[str, tuple[dict[str, object], dict[int, float]]] = {
    "plain": ({}, PROBABILITIES),
    "temperature": ({"temperature": 0.5}, {A: 16 / 30, B: 9 / 30, C: 4 / 30, EOS: 1 / 30}),
    "hot": ({"temperature": 1e2}, {A: 0.25277, B: 0.25205, C: 0.25103, EOS: 0.24415}),
    "top_k": ({"top_k": 2}, {A: 4 / 7, B: 3 / 7}),
    "top_p": ({"top_p": 0.75}, {A: 4 / 9, B: 3 / 9, C: 2 / 9}),
    "top_p at a boundary": ({"top_p": 0.69}, {A: 4 / 7, B: 3 / 7}),
    "top_p of what top_k leaves": ({"top_k": 3, "top_p": 0.75}, {A: 4 / 7, B: 3 / 7}),
    "all": ({"temperature": 0.5, "top_k": 3, "top_p": 0.9}, {A: 16 / 29, B: 9 / 29, C: 4 / 29}),
    "min_new_tokens": ({"min_new_tokens": 1}, {A: 4 / 9, B: 3 / 9, C: 2 / 9}),
    "repetition_penalty": (
        {"repetition_penalty": 2.0, "prefix_ids": [[A]] * DRAWS, "prefix_lengths": 1},
        {A: 0.16 / 0.76, B: 0.3 / 0.76, C: 0.2 / 0.76, EOS: 0.1 / 0.76},
    ),
    "no_repeat_ngram_size": (
        {"no_repeat_ngram_size": 1, "prefix_ids": [[B]] * DRAWS, "prefix_lengths": 1},
        {A: 4 / 7, C: 2 / 7, EOS: 1 / 7},
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_frequencies_fit_the_exact_distribution(name: str) -> None:
    changes, expected = DISTRIBUTIONS[name]
    if name == "hot":
        weights = {token: probability**0.01 for token, probability in PROBABILITIES.items()}
        expected = {token: weight / sum(weights.values()) for token, weight in weights.items()}
    step = markov_step(dict.fromkeys((BOS, A, B), PROBABILITIES))
    everything = options(DRAWS, **{"do_sample": True, "seed": range(DRAWS), "max_new_tokens": 1, **changes})
    found = greedy_search(step, *sources(DRAWS), everything, TOKENS)
    drawn = found.ids[:, 0, 0].numpy()
    # What is not named in the table has e ** -1e4 of the probability of A, which a temperature of 100 does not lift.
    assert_fits(np.bincount(drawn, minlength=7), np.array(as_list(expected)))
    log_probs = np.log([PROBABILITIES[token] for token in drawn])
    np.testing.assert_allclose(found.token_log_probs[:, 0, 0], log_probs, atol=1e-5)  # the unmodified model's


def test_consecutive_positions_are_independent() -> None:
    step = markov_step({last: {A: 0.5, B: 0.3, C: 0.2} for last in (BOS, A, B, C)})
    everything = options(DRAWS, do_sample=True, seed=range(DRAWS), max_new_tokens=3)
    ids = greedy_search(step, *sources(DRAWS), everything, TOKENS).ids[:, 0].numpy()
    each = as_list({A: 0.5, B: 0.3, C: 0.2})
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert_independent(ids[:, first], ids[:, second], 7, each)


# --- which tokens -----------------------------------------------------------------------------------------------------


def likeliest(logits: NDArray[np.float32], top_k: int, top_p: float) -> list[int]:
    """The definition, written down plainly."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    order = order[: top_k or None]
    weights = np.exp(logits[order].astype(np.float64))
    before = np.cumsum(weights) - weights
    return sorted(token for token, mass in zip(order, before, strict=True) if mass < top_p * weights.sum())


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])  # with the first, few tokens hold little of the probability
def test_keeps_the_likeliest_of_every_row_whatever_its_batch_mates_ask(spread: float) -> None:
    limits = [
        (0, 1.0),
        (1, 1.0),
        (7, 1.0),
        (0, 0.3),
        (0, 0.9),
        (40, 0.5),
        (5000, 0.99),
        (0, 1e-6),
        (2900, 1.0),
        (0, 0.99),
    ]
    logits = np.random.default_rng(0).normal(scale=spread, size=[len(limits), 3000]).astype(np.float32)
    logits -= logits.max(axis=1, keepdims=True)
    top_k, top_p = zip(*limits, strict=True)
    together = keep_likeliest(tf.constant(logits), asked(len(limits), top_k=top_k, top_p=top_p)).numpy()
    for row, (k, p) in enumerate(limits):
        kept = np.nonzero(np.isfinite(together[row]))[0].tolist()
        assert kept == (likeliest(logits[row], k, p) if p < 1.0 else likeliest(logits[row], k, 2.0))
        np.testing.assert_array_equal(together[row, kept], logits[row, kept])
        alone = keep_likeliest(tf.constant(logits[row : row + 1]), asked(1, top_k=k, top_p=p))
        np.testing.assert_array_equal(alone[0], together[row])


def test_of_equals_the_lower_id_counts_as_likelier() -> None:
    logits = tf.constant([[-1.0, 0.0, 0.0, 0.0, -1.0]] * 3)
    kept = keep_likeliest(logits, asked(3, top_k=[2, 0, 4], top_p=[1.0, 0.2, 1.0]))
    assert np.isfinite(kept).tolist() == [[0, 1, 1, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 0]]


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-6, 1.0, 100.0])
@pytest.mark.parametrize("others", [{}, {"top_k": 2}, {"top_p": 1e-7}, {"top_p": 0.999999}, {"top_k": 2**31 - 1}])
def test_what_must_not_come_is_never_drawn(temperature: float, others: dict[str, object]) -> None:
    logits = tf.constant([[float("-inf"), 80.0, -80.0, 79.0, float("-inf")]] * 500)
    drawn = draw(logits, tf.constant(0), asked(500, seed=range(500), temperature=temperature, **others)).numpy()
    assert set(drawn.tolist()) <= {1, 2, 3}
    if temperature < 1e-3:
        assert set(drawn.tolist()) == {1}


@pytest.mark.parametrize("seed", range(3))
def test_a_temperature_near_0_is_greedy_search(seed: int) -> None:
    step = random_step(seed, vocabulary_size=30)
    asks = {"max_new_tokens": 20, "min_new_tokens": [0, 5, 0, 9], "repetition_penalty": [1.0, 1.5, 0.5, 1.0]}
    greedy = greedy_search(step, *sources(4), options(4, **asks), TOKENS)
    drawn = greedy_search(
        step, *sources(4), options(4, do_sample=True, temperature=1e-12, seed=range(4), **asks), TOKENS
    )
    for one, other in zip(greedy, drawn, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_decode_resumed_from_its_own_prefix_draws_the_rest() -> None:
    step = random_step(3, vocabulary_size=30)
    asks = {"do_sample": True, "seed": 99, "temperature": 1.5, "top_p": 0.9, "repetition_penalty": 1.3}
    asks["no_repeat_ngram_size"] = 2
    whole = greedy_search(step, *sources(1), options(max_new_tokens=12, **asks), TOKENS)
    length = int(whole.lengths[0, 0])
    assert length > 4
    for cut in range(1, length):
        prefix = {"prefix_ids": whole.ids[:, 0, :cut], "prefix_lengths": cut, "max_new_tokens": 12 - cut}
        rest = greedy_search(step, *sources(1), options(**prefix, **asks), TOKENS)
        np.testing.assert_array_equal(rest.ids[0, 0], whole.ids[0, 0, cut:])
        np.testing.assert_allclose(rest.token_log_probs[0, 0], whole.token_log_probs[0, 0, cut:], atol=1e-5)
