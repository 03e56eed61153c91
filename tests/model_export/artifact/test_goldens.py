"""Golden cases: only answers that survive noise, one for every kind at least, or a clear error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model_export.artifact.calls import Arrays, Signature, padded, text_array
from model_export.artifact.golden_texts import golden_texts
from model_export.artifact.goldens import GoldenError, NoisyStep, make_certificate
from model_export.contract import MINIMUM_GOLDEN_CASES, OPTIONS, Certificate, FinishReason, Limits
from model_export.text.tokenizers import EOS_ID, SentencePieceTokenizer
from tests.support.tiny_models import CORPUS, LIMITS, tiny_tokenizer

FRAGILE_ID = 280


def tokenize(inputs: Arrays) -> Arrays:
    """One token per character: 280 for "c", 300 for the rest."""
    texts = [text.decode() for text in inputs["texts"]]
    ids, lengths = padded([[FRAGILE_ID if character == "c" else 300 for character in text] for text in texts])
    return {"ids": ids, "lengths": lengths}


def answers(tokens: np.ndarray) -> Arrays:
    """Four hypotheses a row, each a token of its own and EOS."""
    ids = np.stack([tokens[:, None] + np.arange(4), np.full([len(tokens), 4], EOS_ID)], axis=2)  # [B, 4, 2]
    rows = len(tokens)
    return {
        "ids": ids,
        "lengths": np.full([rows, 4], 2),
        "sentences": np.full([rows, 4], b"answer", dtype=object),
        "scores": np.full([rows, 4], -1.5, np.float32),
        "finish_reasons": np.full([rows, 4], FinishReason.EOS_TOKEN),
    }


def generate(inputs: Arrays) -> Arrays:
    return answers(np.full([len(inputs["texts"])], 400))


def steady(inputs: Arrays) -> Arrays:
    return answers(np.full([len(inputs["source_ids"])], 400))


class Shaky:
    """Rows that begin with a "c" answer differently at the third noisy run."""

    runs = 0

    def __call__(self, inputs: Arrays) -> Arrays:
        self.runs += 1
        is_fragile = inputs["source_ids"][:, 0] == FRAGILE_ID
        return answers(np.where(is_fragile & (self.runs % 3 == 0), 500, 400))


def certificate(noisy: Signature, samples: Any = CORPUS, **limits: int) -> Certificate:
    rounds = golden_texts(samples, SentencePieceTokenizer(tiny_tokenizer()))
    return make_certificate({"tokenize": tokenize, "generate": generate}, noisy, rounds, Limits(**{**LIMITS, **limits}))


def test_every_kind_has_its_cases() -> None:
    made = certificate(steady)
    names = [case.name for case in made.cases]
    assert len(names) == len(set(names)) >= MINIMUM_GOLDEN_CASES
    assert all(case.ids[0] == (400, EOS_ID) for case in made.cases)
    (n_best,) = [case for case in made.cases if case.name == "n-best 1"]
    assert len(n_best.ids) == len(n_best.scores) == 4
    (prefixed,) = [case for case in made.cases if case.name == "forced prefix 1"]
    assert prefixed.prefix_ids == (400,)


@pytest.mark.parametrize("max_beam_size", [1, 6])
def test_every_option_has_its_case(max_beam_size: int) -> None:
    made = certificate(steady, max_beam_size=max_beam_size)
    asked_for = {name for case in made.cases for name in case.options}
    assert asked_for == OPTIONS.keys() - (set() if max_beam_size > 1 else {"beam_size", "length_penalty"})
    sampled = [case for case in made.cases if case.options.get("do_sample")]
    assert [case.name for case in sampled] == [
        "sampled 1",
        "sampled from top_k 1",
        "sampled from top_p 1",
        "sampled at temperature 0.5 1",
    ]
    samples = min(2, max_beam_size)  # as many as the graph takes
    assert all(len(case.ids) == samples and "beam_size" not in case.options for case in sampled)
    with_beams = [case.name for case in made.cases if {"beam_size", "repetition_penalty"} <= case.options.keys()]
    assert with_beams == (["penalties with beams 1"] if max_beam_size > 1 else [])


def test_a_case_of_an_option_is_one_that_it_changes() -> None:
    def penalized(inputs: Arrays) -> Arrays:
        is_penalized = inputs["repetition_penalty"] != 1.0
        is_sea = np.array([b"sea, sun" in text for text in inputs["texts"]])
        return answers(np.where(is_penalized & is_sea, 500, 400))

    rounds = golden_texts(CORPUS, SentencePieceTokenizer(tiny_tokenizer()))
    texts = rounds[0]
    assert not any("sea, sun" in text for text in (*texts.decomposed_korean, texts.samples[0])), "it would be first"
    live = {"tokenize": tokenize, "generate": penalized}
    sea = tokenize({"texts": text_array(["sea, sun and rain."])})["lengths"][0] + 1

    def as_certain(inputs: Arrays) -> Arrays:
        is_penalized = inputs["repetition_penalty"] != 1.0
        return answers(np.where(is_penalized & (inputs["source_lengths"] == sea), 500, 400))

    made = make_certificate(live, as_certain, rounds, Limits(**LIMITS))
    (case,) = [case for case in made.cases if case.name == "repetition_penalty 1"]
    assert (case.text, case.ids) == ("sea, sun and rain.", ((500, EOS_ID),))


def test_answers_that_noise_changes_are_left_out() -> None:
    samples = ["cat", "cold tea", *CORPUS]
    kept = {case.text for case in certificate(steady, samples).cases}
    assert "cat" in kept
    assert not any(case.text.startswith("c") for case in certificate(Shaky(), samples).cases)


def test_answers_that_a_batch_changes_are_left_out() -> None:
    def rounded_otherwise_alone(inputs: Arrays) -> Arrays:
        is_fragile = np.array([text.startswith(b"c") for text in inputs["texts"]])
        return answers(np.where(is_fragile & (len(is_fragile) == 1), 500, 400))

    live = {"tokenize": tokenize, "generate": rounded_otherwise_alone}
    rounds = golden_texts(["cat", "cold tea", *CORPUS], SentencePieceTokenizer(tiny_tokenizer()))
    made = make_certificate(live, steady, rounds, Limits(**LIMITS))
    assert len(made.cases) >= MINIMUM_GOLDEN_CASES
    assert not any(case.text.startswith("c") for case in made.cases)


def test_other_texts_and_seeds_are_asked_where_too_few_answers_are_robust() -> None:
    seeds: list[set[int]] = []

    def shaky_at_first(inputs: Arrays) -> Arrays:
        """All that is sampled with the first seed, and n-best lists but one of each round."""
        seeds.append(set(inputs["seed"][inputs["do_sample"]].tolist()))
        is_sampled = inputs["do_sample"] & (inputs["seed"] == 7)
        is_list = (inputs["num_hypotheses"] == 4) & (np.arange(len(is_sampled)) > 0)
        return answers(np.where(is_sampled | is_list, 500, 400))

    made = certificate(shaky_at_first)
    assert [case.name for case in made.cases if case.name.startswith("n-best")] == ["n-best 1", "n-best 2"]
    lists = [case.text for case in made.cases if case.name.startswith("n-best")]
    assert len(set(lists)) == 2
    assert {case.options["seed"] for case in made.cases if case.options.get("do_sample")} == {8}
    assert set.union(*seeds) == {7, 8}, "and no further ones, as there are enough"
    once = certificate(steady)
    assert sorted(case.name for case in made.cases) == sorted(case.name for case in once.cases)


def test_a_kind_that_nothing_survives_is_an_error() -> None:
    def fragile_prefixes(inputs: Arrays) -> Arrays:
        return answers(np.where(inputs["prefix_lengths"] > 0, 500, 400))

    with pytest.raises(GoldenError, match="no golden case for forced prefix: every answer tried changes when logits"):
        certificate(fragile_prefixes)


def test_without_beams_greedy_cases_make_up_the_number() -> None:
    made = certificate(steady, max_beam_size=1)
    assert len(made.cases) >= MINIMUM_GOLDEN_CASES
    assert not any("beam_size" in case.options for case in made.cases)


def test_texts_over_the_limit_are_not_asked() -> None:
    made = certificate(steady, max_source_tokens=12)
    assert max(len(case.source_ids) for case in made.cases) <= 12


def test_noise_is_bounded_and_new_at_every_call() -> None:
    class Zeros:
        start = prefill = reorder = select = grow = None

        def __call__(self, ids: tf.Tensor, positions: tf.Tensor, state: int) -> tuple[tf.Tensor, int]:
            return tf.zeros([2, 3, 50]), state + 1

    step = NoisyStep(Zeros(), 0.25)
    first, state = step(tf.zeros([2, 3], tf.int32), tf.zeros([2], tf.int32), 7)
    second, _ = step(tf.zeros([2, 3], tf.int32), tf.zeros([2], tf.int32), 7)
    assert state == 8
    assert 0.2 < np.abs(first).max() <= 0.25
    assert not np.array_equal(first, second)
