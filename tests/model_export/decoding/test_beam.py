"""Beam search against answers worked out by hand and against exhaustive search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from model_export.contract import FinishReason
from model_export.decoding import beam_search, greedy_search
from tests.support.scripted_step import (
    BOS,
    EOS,
    PAD,
    TOKENS,
    A,
    B,
    C,
    ScriptedStep,
    all_sequences,
    best_sequences,
    markov_step,
    options,
    random_step,
    sequences,
    sources,
)

# By hand, beam 2. Greedy takes A (0.6) and ends with 0.6 * 0.4 = 0.24; through B there is 0.4 * 0.9 = 0.36.
GARDEN_PATH = {BOS: {A: 0.6, B: 0.4}, A: {EOS: 0.4, C: 0.6}, B: {EOS: 0.9, C: 0.1}, C: {EOS: 0.5, A: 0.5}}


def test_finds_what_greedy_search_misses() -> None:
    step = markov_step(GARDEN_PATH)
    assert sequences(greedy_search(step, *sources(1), options(length_penalty=0.0), TOKENS)) == [(A, C, EOS)]
    found = beam_search(step, *sources(1), 2, options(num_hypotheses=2, length_penalty=0.0), TOKENS)
    # Step 2: the candidates are A C 0.36, B EOS 0.36, A EOS 0.24, B C 0.04; the best two hold B EOS, which finishes.
    # Step 3: from A C (0.36) and B C (0.04): A C EOS 0.18, A C A 0.18: A C EOS finishes second, and the row is done.
    assert sequences(found) == [(B, EOS), (A, C, EOS)]
    np.testing.assert_allclose(found.scores, np.log([[0.36, 0.18]]), atol=1e-5)
    np.testing.assert_array_equal(found.finish_reasons, [[FinishReason.EOS_TOKEN] * 2])
    np.testing.assert_allclose(found.token_log_probs[0, 1], np.log([0.6, 0.6, 0.5]), atol=1e-5)


def test_length_penalty_ranks_by_score_over_length_to_its_power() -> None:
    step = markov_step(GARDEN_PATH)
    for penalty in (0.0, 1.0, 2.0, -1.0):
        found = beam_search(step, *sources(1), 2, options(num_hypotheses=2, length_penalty=penalty), TOKENS)
        ranks = {(B, EOS): math.log(0.36) / 2**penalty, (A, C, EOS): math.log(0.18) / 3**penalty}
        assert sequences(found) == sorted(ranks, key=lambda one: -ranks[one])
        np.testing.assert_allclose(found.normalized_scores[0], sorted(ranks.values(), reverse=True), atol=1e-5)


def test_a_row_is_done_when_beam_size_hypotheses_have_finished() -> None:
    # Every step ends one of two beams: after two steps two have finished, although going on would win in the end.
    step = markov_step({BOS: {EOS: 0.3, A: 0.7}, A: {EOS: 0.1, A: 0.9}})
    found = beam_search(step, *sources(1), 2, options(num_hypotheses=2, max_new_tokens=50), TOKENS)
    assert step.calls == 2
    assert sequences(found) == [(EOS,), (A, EOS)]  # -1.20 and -1.33 a token


def test_at_the_last_position_the_best_candidates_finish_by_length() -> None:
    step = markov_step({BOS: {A: 0.6, B: 0.4}, A: {A: 0.9, EOS: 0.1}, B: {B: 0.5, EOS: 0.5}})
    found = beam_search(step, *sources(1), 3, options(num_hypotheses=3, max_new_tokens=2, length_penalty=0.0), TOKENS)
    # A A 0.54, B B 0.20, B EOS 0.20; A EOS (0.06) is not among the three best.
    assert sequences(found)[0] == (A, A)
    assert set(sequences(found)) == {(A, A), (B, B), (B, EOS)}
    reasons = {one: int(found.finish_reasons[0, k]) for k, one in enumerate(sequences(found))}
    assert reasons == {(A, A): FinishReason.LENGTH, (B, B): FinishReason.LENGTH, (B, EOS): FinishReason.EOS_TOKEN}


def test_places_that_nothing_fills_are_empty() -> None:
    step = markov_step({BOS: {A: 1.0}, A: {EOS: 1.0}}, vocabulary_size=5)
    step.table = tf.where(step.table < -100.0, float("-inf"), step.table)
    found = beam_search(step, *sources(1), 4, options(num_hypotheses=4), TOKENS)
    assert sequences(found) == [(A, EOS)]
    np.testing.assert_array_equal(found.lengths, [[2, 0, 0, 0]])
    np.testing.assert_array_equal(found.finish_reasons[0, 1:], [FinishReason.NONE] * 3)
    np.testing.assert_array_equal(found.ids[0, 1:], np.full([3, 2], PAD))
    assert np.isneginf(found.scores[0, 1:]).all()


@pytest.mark.parametrize("seed", range(6))
def test_beam_size_1_equals_greedy(seed: int) -> None:
    step = random_step(seed)
    asked = options(8, max_new_tokens=[1, 2, 5, 9, 30, 30, 30, 4], min_new_tokens=[0, 1, 0, 9, 3, 0, 12, 0])
    greedy = greedy_search(step, *sources(8), asked, TOKENS)
    for one, other in zip(beam_search(step, *sources(8), 1, asked, TOKENS), greedy, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("length_penalty", "min_new_tokens"), [(0.0, 0), (1.0, 0), (2.0, 2), (0.6, 3)])
def test_a_wide_beam_equals_exhaustive_search(seed: int, length_penalty: float, min_new_tokens: int) -> None:
    step, longest = random_step(seed), 4
    asked = options(
        num_hypotheses=20, max_new_tokens=longest, min_new_tokens=min_new_tokens, length_penalty=length_penalty
    )
    found = beam_search(step, *sources(1), 160, asked, TOKENS)

    def score(sequence: tuple[int, ...]) -> float:
        return sum(step.log_probs(10, sequence))

    expected = best_sequences(score, all_sequences(longest, min_new_tokens), length_penalty, 20)
    assert sequences(found) == expected
    np.testing.assert_allclose(found.scores[0], [score(one) for one in expected], atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_hypotheses_are_never_duplicated_and_scores_are_the_unmodified_models(seed: int) -> None:
    step = random_step(seed, vocabulary_size=12)
    found = beam_search(step, *sources(5), 6, options(5, num_hypotheses=6, max_new_tokens=20), TOKENS)
    for row in range(5):
        rows = sequences(found, row)
        assert len(set(rows)) == len(rows) == 6
        for k, one in enumerate(rows):
            log_probs = step.log_probs(10 + row, one)
            np.testing.assert_allclose(found.token_log_probs[row, k, : len(one)], log_probs, atol=1e-4)
            np.testing.assert_allclose(found.scores[row, k], sum(log_probs), atol=1e-4)
            ends = one[-1] == EOS
            assert found.finish_reasons[row, k] == (FinishReason.EOS_TOKEN if ends else FinishReason.LENGTH)
            assert ends or len(one) == 20
        normalized = found.normalized_scores[row].numpy()
        assert (np.diff(normalized) <= 0).all()


def reference_beam_search(
    step: ScriptedStep, source: int, beam_size: int, max_new_tokens: int, min_new_tokens: int, length_penalty: float
) -> list[tuple[int, ...]]:
    """The definition at the top of ``beam.py``, written down plainly."""
    beams: list[tuple[int, ...]] = [()]
    finished: list[tuple[int, ...]] = []

    def score(one: tuple[int, ...]) -> float:
        return sum(step.log_probs(source, one))

    letters = [t for t in range(step.table.shape[1]) if t not in TOKENS.suppressed]
    for time in range(max_new_tokens):
        allowed = [t for t in letters if t != EOS or time >= min_new_tokens]
        candidates = sorted(((*beam, t) for beam in beams for t in allowed), key=score, reverse=True)
        is_last = time + 1 == max_new_tokens
        finished += [one for one in candidates[:beam_size] if one[-1] == EOS or is_last]
        if is_last or len(finished) >= beam_size:
            break
        beams = [one for one in candidates if one[-1] != EOS][:beam_size]
    return sorted(finished, key=lambda one: -score(one) / len(one) ** length_penalty)[:beam_size]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("beam_size", [2, 3, 5])
def test_equals_the_plain_definition(seed: int, beam_size: int) -> None:
    step = random_step(seed, vocabulary_size=9)
    limits, minima, penalties = [9, 3, 12, 1], [0, 2, 5, 0], [1.0, 0.0, 0.7, 1.5]
    asked = options(4, num_hypotheses=beam_size, max_new_tokens=limits, min_new_tokens=minima, length_penalty=penalties)
    found = beam_search(step, *sources(4), beam_size, asked, TOKENS)
    for row in range(4):
        expected = reference_beam_search(step, 10 + row, beam_size, limits[row], minima[row], penalties[row])
        assert sequences(found, row) == expected


@pytest.mark.parametrize("seed", range(8))
def test_rows_of_unlike_beam_sizes_equal_the_plain_definition(seed: int) -> None:
    step, sizes = random_step(seed, vocabulary_size=9), [1, 5, 2, 1, 4, 3]
    limits, penalties = [9, 12, 12, 1, 12, 7], [1.0, 0.0, 0.7, 1.0, 1.5, 1.0]
    asked = options(6, num_hypotheses=sizes, max_new_tokens=limits, length_penalty=penalties)
    found = beam_search(step, *sources(6), tf.constant(sizes), asked, TOKENS)
    for row, beam_size in enumerate(sizes):
        expected = reference_beam_search(step, 10 + row, beam_size, limits[row], 0, penalties[row])
        assert sequences(found, row) == expected
        assert len(expected) <= beam_size


def test_a_row_takes_no_longer_for_wider_neighbours() -> None:
    # Its one hypothesis ends at once, and nothing is to finish in the places that it did not ask for.
    going_on = {A: 0.4, B: 0.3, C: 0.2999, EOS: 0.0001}
    step = markov_step({BOS: {EOS: 0.9, A: 0.1}, A: going_on, B: going_on, C: going_on})
    asked = options(2, max_new_tokens=[50, 3])
    beam_search(step, *sources(2), tf.constant([1, 3]), asked, TOKENS)
    assert step.calls == 3


def test_num_hypotheses_is_each_rows_own() -> None:
    step = random_step(1)
    found = beam_search(step, *sources(3), 4, options(3, num_hypotheses=[1, 3, 2]), TOKENS)
    everything = beam_search(step, *sources(3), 4, options(3, num_hypotheses=4), TOKENS)
    assert found.ids.shape[1] == 3
    for row, wanted in enumerate([1, 3, 2]):
        assert sequences(found, row) == sequences(everything, row)[:wanted]


def test_a_batch_of_mixed_options_equals_each_row_alone() -> None:
    step = random_step(11, vocabulary_size=20)
    beam_sizes = [4, 4, 2, 3, 4, 1]
    mixed = {
        "num_hypotheses": [1, 4, 2, 3, 4, 1],
        "max_new_tokens": [30, 1, 17, 9, 30, 24],
        "min_new_tokens": [0, 0, 11, 9, 2, 0],
        "length_penalty": [1.0, 0.0, 2.0, 0.5, 1.0, -0.5],
        "prefix_lengths": [0, 2, 1, 0, 3, 0],
    }
    prefix_ids = np.random.default_rng(0).integers(4, 20, [6, 3])
    ids, lengths = sources(6)
    found = beam_search(step, ids, lengths, tf.constant(beam_sizes), options(6, prefix_ids=prefix_ids, **mixed), TOKENS)
    for row in range(6):
        own = {name: values[row] for name, values in mixed.items()}
        prefix = prefix_ids[row : row + 1, : max(1, own["prefix_lengths"])]
        asked = options(1, prefix_ids=prefix, **own)
        alone = beam_search(step, ids[row : row + 1], lengths[row : row + 1], beam_sizes[row], asked, TOKENS)
        assert sequences(found, row) == sequences(alone)
        kept = own["num_hypotheses"]
        np.testing.assert_allclose(found.scores[row, :kept], alone.scores[0], atol=1e-4)
        np.testing.assert_array_equal(found.finish_reasons[row, :kept], alone.finish_reasons[0])
