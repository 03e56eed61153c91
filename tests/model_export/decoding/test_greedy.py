"""Greedy search against answers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from model_export.contract import FinishReason
from model_export.decoding import greedy_search
from tests.support.scripted_step import BOS, EOS, PAD, TOKENS, UNK, A, B, C, markov_step, options, random_step, sources

CHAIN = {BOS: {A: 0.6, B: 0.4}, A: {B: 0.7, EOS: 0.3}, B: {EOS: 0.8, C: 0.2}, C: {A: 0.5, EOS: 0.5}}


def test_follows_the_most_probable_token_until_eos() -> None:
    found = greedy_search(markov_step(CHAIN), *sources(1), options(), TOKENS)
    np.testing.assert_array_equal(found.ids, [[[A, B, EOS]]])
    np.testing.assert_array_equal(found.lengths, [[3]])
    np.testing.assert_array_equal(found.finish_reasons, [[FinishReason.EOS_TOKEN]])
    np.testing.assert_allclose(found.token_log_probs, np.log([[[0.6, 0.7, 0.8]]]), atol=1e-6)
    np.testing.assert_allclose(found.scores, [[math.log(0.6 * 0.7 * 0.8)]], atol=1e-6)
    np.testing.assert_allclose(found.normalized_scores, [[math.log(0.6 * 0.7 * 0.8) / 3]], atol=1e-6)


def test_max_new_tokens_cuts_each_row_at_its_own_length() -> None:
    found = greedy_search(markov_step(CHAIN), *sources(3), options(3, max_new_tokens=[1, 2, 6]), TOKENS)
    np.testing.assert_array_equal(found.ids[:, 0], [[A, PAD, PAD], [A, B, PAD], [A, B, EOS]])
    np.testing.assert_array_equal(found.lengths[:, 0], [1, 2, 3])
    expected = [FinishReason.LENGTH, FinishReason.LENGTH, FinishReason.EOS_TOKEN]
    np.testing.assert_array_equal(found.finish_reasons[:, 0], expected)


def test_eos_as_the_last_allowed_token_counts_as_eos() -> None:
    found = greedy_search(markov_step(CHAIN), *sources(1), options(max_new_tokens=3), TOKENS)
    np.testing.assert_array_equal(found.finish_reasons, [[FinishReason.EOS_TOKEN]])


def test_min_new_tokens_keeps_eos_back_and_the_score_stays_the_models() -> None:
    found = greedy_search(markov_step(CHAIN), *sources(1), options(min_new_tokens=4), TOKENS)
    np.testing.assert_array_equal(found.ids, [[[A, B, C, A, B, EOS]]])
    np.testing.assert_allclose(found.token_log_probs[0, 0], np.log([0.6, 0.7, 0.2, 0.5, 0.7, 0.8]), atol=1e-6)


@pytest.mark.parametrize("token", [PAD, UNK, BOS])
def test_suppressed_tokens_never_come_out(token: int) -> None:
    found = greedy_search(markov_step({BOS: {token: 0.9, A: 0.1}, A: {EOS: 1.0}}), *sources(1), options(), TOKENS)
    np.testing.assert_array_equal(found.ids, [[[A, EOS]]])
    np.testing.assert_allclose(found.scores, [[math.log(0.1)]], atol=1e-6)


def test_a_forced_prefix_is_read_but_not_repeated() -> None:
    asked = options(3, prefix_ids=[[PAD, PAD], [B, PAD], [B, C]], prefix_lengths=[0, 1, 2])
    found = greedy_search(markov_step(CHAIN), *sources(3), asked, TOKENS)
    np.testing.assert_array_equal(found.ids[:, 0], [[A, B, EOS], [EOS, PAD, PAD], [EOS, PAD, PAD]])
    np.testing.assert_allclose(found.scores[1:, 0], np.log([0.8, 0.5]), atol=1e-6)


def test_resuming_from_what_was_found_finds_the_rest() -> None:
    step = random_step(seed=3, vocabulary_size=30)
    whole = greedy_search(step, *sources(1), options(max_new_tokens=12), TOKENS)
    length = int(whole.lengths[0, 0])
    assert length > 4
    for cut in range(1, length):
        prefix = whole.ids[:, 0, :cut]
        rest = greedy_search(
            step, *sources(1), options(max_new_tokens=12 - cut, prefix_ids=prefix, prefix_lengths=cut), TOKENS
        )
        np.testing.assert_array_equal(rest.ids[0, 0], whole.ids[0, 0, cut:])
        np.testing.assert_allclose(rest.token_log_probs[0, 0], whole.token_log_probs[0, 0, cut:], atol=1e-6)


def test_a_finished_row_costs_no_further_steps() -> None:
    step = markov_step({BOS: {A: 1.0}, A: {EOS: 1.0}})
    greedy_search(step, *sources(4), options(4, max_new_tokens=100), TOKENS)
    assert step.calls == 2


def test_the_graph_says_what_eager_execution_says() -> None:
    step = random_step(seed=5)
    asked = options(6, max_new_tokens=[1, 40, 7, 23, 40, 12], min_new_tokens=[0, 20, 3, 0, 39, 0])
    eager = greedy_search(step, *sources(6), asked, TOKENS)
    specs = tf.nest.map_structure(lambda one: tf.TensorSpec([None, *one.shape[1:]], one.dtype), (*sources(6), asked))
    graph = tf.function(
        lambda ids, lengths, asked: greedy_search(step, ids, lengths, asked, TOKENS),
        input_signature=specs,
        autograph=False,
    )
    for one, other in zip(eager, graph(*sources(6), asked), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
