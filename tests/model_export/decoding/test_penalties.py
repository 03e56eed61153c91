"""What options make of logits, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from model_export.contract import FinishReason
from model_export.decoding import Hypotheses, TokenIds, beam_search, greedy_search
from model_export.decoding.penalties import forbid_repeated_ngrams, penalize_repetition, seen_prefix
from tests.support.scripted_step import (
    BOS,
    EOS,
    PAD,
    TOKENS,
    UNK,
    A,
    B,
    C,
    ScriptedStep,
    markov_step,
    options,
    sequences,
    sources,
)

UNK_ALLOWED = TokenIds(start=BOS, eos=EOS, pad=PAD, suppressed=(PAD, BOS), unk=UNK)


def search(
    step: ScriptedStep, beam_size: int, batch: int = 1, tokens: TokenIds = TOKENS, **asked: object
) -> Hypotheses:
    """Greedy search, or beam search when ``beam_size`` is more than 1."""
    if beam_size == 1:
        return greedy_search(step, *sources(batch), options(batch, **asked), tokens)
    return beam_search(step, *sources(batch), beam_size, options(batch, **asked), tokens)


# --- repetition_penalty -----------------------------------------------------------------------------------------------


def test_a_seen_logit_is_divided_when_positive_and_multiplied_when_negative() -> None:
    logits = tf.constant([[[3.0, -3.0, 0.0, 5.0, -1.0]]] * 3)
    seen = tf.constant([[[4, 1, 1, 3]], [[0, 0, 0, 4]], [[2, 3, 3, 3]]])  # 0 is pad
    found = penalize_repetition(logits, seen, tf.constant([2.0, 4.0, 0.5]), pad=0)
    expected = [[[3.0, -6.0, 0.0, 2.5, -2.0]], [[3.0, -3.0, 0.0, 5.0, -4.0]], [[3.0, -3.0, 0.0, 10.0, -1.0]]]
    np.testing.assert_array_equal(found, expected)


# A penalty of 2 squares the probability of what was seen, since these logits are logarithms.
LOOP = {BOS: {A: 0.6, B: 0.4}, A: {A: 0.5, B: 0.3, EOS: 0.2}, B: {EOS: 0.5, A: 0.4, B: 0.1}}


def test_repetition_penalty_in_greedy_search() -> None:
    step = markov_step(LOOP)
    assert sequences(search(step, 1, max_new_tokens=3)) == [(A, A, A)]
    found = search(step, 1, max_new_tokens=3, repetition_penalty=2.0)
    # After A: A 0.25, B 0.3, EOS 0.2. After A B: EOS 0.5, A 0.16, B 0.01.
    assert sequences(found) == [(A, B, EOS)]
    np.testing.assert_allclose(found.token_log_probs[0, 0], np.log([0.6, 0.3, 0.5]), atol=1e-6)
    np.testing.assert_allclose(found.scores, [[math.log(0.6 * 0.3 * 0.5)]], atol=1e-6)
    processed = math.log(0.6 * (0.3 / 0.75) * (0.5 / 0.67))
    np.testing.assert_allclose(found.normalized_scores, [[processed / 3]], atol=1e-6)


def test_repetition_penalty_counts_the_prefix() -> None:
    found = search(
        markov_step(LOOP), 1, 3, repetition_penalty=2.0, prefix_ids=[[A, PAD], [A, B], [0, 0]], prefix_lengths=[1, 2, 0]
    )
    assert [sequences(found, row) for row in range(3)] == [[(B, EOS)], [(EOS,)], [(A, B, EOS)]]
    np.testing.assert_allclose(found.normalized_scores[1, 0], math.log(0.5 / 0.67), atol=1e-6)


def test_repetition_penalty_ranks_beams_and_leaves_scores_the_models() -> None:
    step = markov_step({BOS: {A: 0.6, B: 0.4}, A: {A: 0.6, EOS: 0.4}, B: {EOS: 0.5, B: 0.5}})
    asked = {"num_hypotheses": 2, "max_new_tokens": 2, "length_penalty": 0.0}
    assert sequences(search(step, 2, **asked)) == [(A, A), (A, EOS)]  # 0.36, 0.24
    found = search(step, 2, repetition_penalty=2.0, **asked)
    # After A: A 0.36, EOS 0.4: of 0.6, A EOS keeps 0.6 * 0.4 / 0.76 = 0.316. After B: B 0.25, EOS 0.5: B EOS keeps
    # 0.4 * 0.5 / 0.75 = 0.267; A A has 0.284.
    assert sequences(found) == [(A, EOS), (A, A)]
    np.testing.assert_allclose(found.normalized_scores, np.log([[0.6 * 0.4 / 0.76, 0.6 * 0.36 / 0.76]]), atol=1e-6)
    np.testing.assert_allclose(found.scores, np.log([[0.24, 0.36]]), atol=1e-6)
    np.testing.assert_allclose(found.token_log_probs, np.log([[[0.6, 0.4], [0.6, 0.6]]]), atol=1e-6)


def test_neither_start_token_nor_eos_nor_pad_is_ever_seen() -> None:
    asked = options(4, prefix_ids=[[A, EOS, B], [9, 9, 9], [B, PAD, 9], [C, 9, 9]], prefix_lengths=[3, 0, 2, 1])
    np.testing.assert_array_equal(seen_prefix(asked, TOKENS), [[A, PAD, B], [PAD] * 3, [PAD, B, PAD], [PAD, PAD, C]])
    step = markov_step({BOS: {A: 1.0}, A: {A: 0.5, EOS: 0.5}, EOS: {EOS: 0.4, B: 0.3, A: 0.3}})
    found = search(step, 1, repetition_penalty=9.0, no_repeat_ngram_size=1, prefix_ids=[[A, EOS]], prefix_lengths=2)
    assert sequences(found) == [(EOS,)]


# --- no_repeat_ngram_size ---------------------------------------------------------------------------------------------


def test_tokens_that_would_complete_an_ngram_again_are_forbidden() -> None:
    seen = tf.constant([[[5, 6, 7, 5, 6]]] * 5 + [[[0, 0, 0, 0, 5]]])
    found = forbid_repeated_ngrams(tf.zeros([6, 1, 9]), seen, tf.constant([0, 1, 2, 3, 4, 2]), pad=0)
    forbidden = [np.nonzero(np.isneginf(row))[0].tolist() for row in found[:, 0].numpy()]
    assert forbidden == [[], [5, 6, 7], [7], [7], [], []]


@pytest.mark.parametrize("size", range(1, 9))
def test_any_size_equals_the_plain_definition(size: int) -> None:
    generator = np.random.default_rng(size)
    seen = generator.integers(1, 4, [40, 2, 60])
    seen[:, 0, -size - 2 :] = seen[:, 0, : size + 2]  # something to repeat
    found = forbid_repeated_ngrams(tf.zeros([40, 2, 4]), tf.constant(seen, tf.int32), tf.fill([40], size), pad=0)
    for row, beam in np.ndindex(40, 2):
        one = seen[row, beam].tolist()
        ngrams = {tuple(one[start : start + size]) for start in range(60 - size + 1)}
        expected = [token for token in range(4) if (*one[60 - size + 1 :], token) in ngrams]
        assert np.nonzero(np.isneginf(found[row, beam]))[0].tolist() == expected


# A begins; of what is forbidden the next best comes.
CIRCLE = {BOS: {A: 1.0}, A: {B: 0.6, C: 0.3, EOS: 0.1}, B: {A: 0.9, C: 0.1}, C: {EOS: 1.0}}
NO_NGRAM_AGAIN = [(A, B, A, B, A, B), (A, B, C, EOS), (A, B, A, C, EOS), (A, B, A, B, C, EOS)]


def test_no_repeat_ngram_size_in_greedy_search() -> None:
    found = search(markov_step(CIRCLE), 1, 4, no_repeat_ngram_size=[0, 1, 2, 3])
    assert [sequences(found, row)[0] for row in range(4)] == NO_NGRAM_AGAIN
    np.testing.assert_allclose(found.scores[2, 0], math.log(0.6 * 0.9 * 0.3), atol=1e-5)
    np.testing.assert_allclose(found.normalized_scores[2, 0], math.log(0.6 * 0.9 * 0.3) / 5, atol=1e-5)


def test_no_repeat_ngram_size_counts_prefixes_of_any_length() -> None:
    prefixes = [[A, B, PAD], [B, PAD, PAD], [PAD] * 3, [A, C, A]]
    asked = {"prefix_ids": prefixes, "prefix_lengths": [2, 1, 0, 3]}
    found = search(markov_step(CIRCLE), 1, 4, no_repeat_ngram_size=2, **asked)
    assert [sequences(found, row)[0] for row in range(4)] == [
        (A, C, EOS),
        (A, B, C, EOS),
        (A, B, A, C, EOS),
        (B, A, EOS),
    ]


def test_no_repeat_ngram_size_in_beam_search() -> None:
    step = markov_step({BOS: {A: 0.7, B: 0.3}, A: {A: 0.8, EOS: 0.2}, B: {A: 0.1, EOS: 0.9}})
    asked = {"num_hypotheses": 2, "max_new_tokens": 3, "length_penalty": 0.0}
    assert sequences(search(step, 2, **asked)) == [(A, A, A), (B, EOS)]  # 0.448, 0.27
    # Without "A A" again: step 2 has A A 0.56 and B EOS 0.27; step 3 A A EOS 0.112 and B A EOS 0.006.
    found = search(step, 2, no_repeat_ngram_size=2, **asked)
    assert sequences(found) == [(B, EOS), (A, A, EOS)]
    np.testing.assert_allclose(found.scores, np.log([[0.27, 0.112]]), atol=1e-5)
    # After the prefix A no A may come twice in a row: A EOS, as the continuation of B alone, is what is left.
    found = search(step, 2, no_repeat_ngram_size=2, prefix_ids=[[A, A]], prefix_lengths=2, **asked)
    assert sequences(found)[0] == (EOS,)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_what_no_token_may_continue_ends_although_min_new_tokens_are_not_there(beam_size: int) -> None:
    step = markov_step({last: {A: 0.5, B: 0.3, C: 0.1, EOS: 0.1} for last in (BOS, A, B, C)})
    found = search(step, beam_size, min_new_tokens=6, max_new_tokens=6, no_repeat_ngram_size=1)
    assert sequences(found) == [(A, B, C, EOS)]
    np.testing.assert_array_equal(found.finish_reasons, [[FinishReason.EOS_TOKEN]])
    np.testing.assert_allclose(found.scores, [[math.log(0.5 * 0.3 * 0.1 * 0.1)]], atol=1e-5)
    assert step.calls == 4


# --- disable_unk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beam_size", [1, 2])
def test_disable_unk_is_each_rows_own(beam_size: int) -> None:
    step = markov_step({BOS: {UNK: 0.9, A: 0.1}, UNK: {EOS: 1.0}, A: {EOS: 1.0}})
    found = search(step, beam_size, 2, UNK_ALLOWED, disable_unk=[False, True])
    assert [sequences(found, row)[0] for row in range(2)] == [(UNK, EOS), (A, EOS)]
    np.testing.assert_allclose(found.scores, np.log([[0.9], [0.1]]), atol=1e-5)  # nothing is renormalized
    np.testing.assert_allclose(found.normalized_scores, np.log([[0.9], [0.1]]) / 2, atol=1e-5)


def test_disable_unk_asks_nothing_of_a_vocabulary_without_unk() -> None:
    found = search(markov_step(CIRCLE), 1, disable_unk=True)
    assert sequences(found) == [NO_NGRAM_AGAIN[0]]


def test_disable_unk_after_a_prefix_with_unk() -> None:
    step = markov_step({UNK: {UNK: 0.8, EOS: 0.2}})
    found = search(step, 1, 2, UNK_ALLOWED, disable_unk=[True, False], prefix_ids=[[UNK]] * 2, prefix_lengths=1)
    assert [sequences(found, row)[0] for row in range(2)] == [(EOS,), (UNK,) * 6]
