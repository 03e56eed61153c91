"""Several samples of one row."""

from __future__ import annotations

import numpy as np

from model_export.contract import FinishReason
from model_export.decoding import greedy_search
from tests.support.scripted_step import (
    BOS,
    EOS,
    PAD,
    TOKENS,
    A,
    B,
    C,
    ScriptedState,
    ScriptedStep,
    markov_step,
    options,
    random_step,
    sequences,
    sources,
)


class CountingStep(ScriptedStep):
    """Counts the rows that the encoder and the prefill read."""

    def __init__(self, other: ScriptedStep) -> None:
        super().__init__(other.table.numpy())
        self.encoded: list[int] = []

    def start(self, *arguments: object) -> ScriptedState:
        state = super().start(*arguments)
        self.encoded.append(state.history.shape[0])
        return state

    def prefill(self, *arguments: object) -> ScriptedState:
        state = super().prefill(*arguments)
        self.encoded.append(state.history.shape[0])
        return state


def test_each_row_gets_as_many_samples_as_it_wants_best_first() -> None:
    step = random_step(2, vocabulary_size=12)
    wanted = [3, 1, 8, 2, 5]
    sampling = [True, True, True, False, True]
    # Row 3 does not sample: greedy search has one hypothesis for it.
    asked = options(5, do_sample=sampling, num_hypotheses=wanted, seed=[4, 5, 6, 7, 4], max_new_tokens=9)
    found = greedy_search(step, *sources(5), asked, TOKENS)
    assert found.ids.shape[:2] == (5, 8)
    for row, count in enumerate([3, 1, 8, 1, 5]):
        samples = sequences(found, row)
        assert len(samples) == count
        assert (np.diff(found.normalized_scores[row, :count]) <= 0.0).all()
        np.testing.assert_array_equal(found.finish_reasons[row, count:], [FinishReason.NONE] * (8 - count))
        np.testing.assert_array_equal(found.ids[row, count:], np.full(found.ids[row, count:].shape, PAD))
        assert np.isneginf(found.scores[row, count:]).all()
        for place, sample in enumerate(samples):
            log_probs = step.log_probs(10 + row, sample)
            np.testing.assert_allclose(found.scores[row, place], sum(log_probs), atol=1e-4)
            np.testing.assert_allclose(found.normalized_scores[row, place], sum(log_probs) / len(sample), atol=1e-4)
    assert len(set(sequences(found, 2))) > 4


def test_a_row_gets_the_same_samples_in_any_batch_and_more_of_them_change_none() -> None:
    step = random_step(2, vocabulary_size=12)
    asks = {"do_sample": True, "seed": 6, "max_new_tokens": 9}
    single = sequences(greedy_search(step, *sources(1), options(1, **asks), TOKENS))
    few = sequences(greedy_search(step, *sources(1), options(1, num_hypotheses=3, **asks), TOKENS))
    many = sequences(greedy_search(step, *sources(1), options(1, num_hypotheses=8, **asks), TOKENS))
    assert single[0] in few
    assert set(few) < set(many)
    batched = greedy_search(step, *sources(3), options(3, num_hypotheses=[8, 2, 1], **asks), TOKENS)
    assert sequences(batched) == many


def test_samples_of_one_seed_are_independent() -> None:
    step = markov_step({BOS: {A: 0.5, B: 0.3, C: 0.2}})
    rows = 4000
    asked = options(rows, do_sample=True, seed=range(rows), num_hypotheses=2, max_new_tokens=1, length_penalty=0.0)
    found = greedy_search(step, *sources(rows), asked, TOKENS).ids[:, :, 0].numpy()
    # Best first: A before B before C. Of two independent draws, pairs by hand.
    expected = {(A, A): 0.25, (A, B): 0.3, (A, C): 0.2, (B, B): 0.09, (B, C): 0.12, (C, C): 0.04}
    statistic = 0.0
    for (first, second), probability in expected.items():
        count = int(((found[:, 0] == first) & (found[:, 1] == second)).sum())
        statistic += (count - rows * probability) ** 2 / (rows * probability)
    assert statistic < 20.5  # the 99.9 % quantile of chi-square with 5 degrees of freedom


def test_the_encoder_and_the_prefix_are_read_once() -> None:
    step = CountingStep(random_step(2, vocabulary_size=12))
    prefix_ids = [[A, B, PAD], [PAD] * 3, [C, A, B]]
    asks = {"do_sample": True, "seed": 1, "prefix_ids": prefix_ids, "prefix_lengths": [2, 0, 3], "max_new_tokens": 5}
    found = greedy_search(step, *sources(3), options(3, num_hypotheses=[4, 2, 1], **asks), TOKENS)
    assert step.encoded == [3, 3]
    for row, count in enumerate([4, 2, 1]):
        for place, sample in enumerate(sequences(found, row)):
            prefix = tuple(prefix_ids[row][: asks["prefix_lengths"][row]])
            log_probs = step.log_probs(10 + row, prefix + sample)[len(prefix) :]
            np.testing.assert_allclose(found.scores[row, place], sum(log_probs), atol=1e-4)
        assert len(sequences(found, row)) == count


def test_samples_that_end_leave_the_batch() -> None:
    step = markov_step({BOS: {A: 1.0}, A: {EOS: 1.0}})
    found = greedy_search(step, *sources(2), options(2, do_sample=True, num_hypotheses=4, max_new_tokens=100), TOKENS)
    assert step.calls == 2
    assert sequences(found) == [(A, EOS)] * 4
