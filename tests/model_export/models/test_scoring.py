"""Scores of given targets: the whole pass's, and what the searches said of their own hypotheses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model_export.decoding import beam_search, greedy_search
from model_export.models import Seq2SeqModel, scoring
from model_export.models.additive_attention import AdditiveAttention
from model_export.models.attention import CrossAttention
from model_export.models.scoring import Scores, score
from tests.support.random_models import CONFIGS, VOCABULARY, random_model
from tests.support.scripted_step import BOS, TOKENS, options

SOURCE_LENGTHS = np.array([5, 1, 3, 4], np.int32)
SOURCE_IDS = np.random.default_rng(0).integers(4, VOCABULARY, [4, 5]).astype(np.int32)
TARGET_LENGTHS = np.array([2, 6, 1, 4], np.int32)
TARGET_IDS = np.random.default_rng(1).integers(4, VOCABULARY, [4, 6]).astype(np.int32)
INSIDE = np.arange(6) < TARGET_LENGTHS[:, None]


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request: pytest.FixtureRequest) -> Seq2SeqModel:
    return random_model(request.param)


def scored(model: Seq2SeqModel, source: Any, lengths: Any, target: Any, target_lengths: Any) -> Scores:
    found = score(model, *(tf.constant(value) for value in (source, lengths, target, target_lengths)), BOS)
    return Scores(*(None if field is None else field.numpy() for field in found))


@pytest.fixture(scope="module")
def scores(model: Seq2SeqModel) -> Scores:
    return scored(model, SOURCE_IDS, SOURCE_LENGTHS, TARGET_IDS, TARGET_LENGTHS)


def test_log_probabilities_and_ranks_are_those_of_the_whole_pass(model: Seq2SeqModel, scores: Scores) -> None:
    before = np.concatenate([np.full([4, 1], BOS, np.int32), TARGET_IDS[:, :-1]], axis=1)
    logits = model({"source_ids": SOURCE_IDS, "source_lengths": SOURCE_LENGTHS, "target_ids": before}).numpy()
    log_probs = np.float64(logits) - np.log(np.exp(np.float64(logits)).sum(-1, keepdims=True))
    own = np.take_along_axis(log_probs, TARGET_IDS[:, :, None], axis=-1)
    np.testing.assert_allclose(scores.token_log_probs, np.where(INSIDE, own[:, :, 0], 0.0), atol=1e-5)
    np.testing.assert_array_equal(scores.token_ranks, np.where(INSIDE, (log_probs > own).sum(-1), 0))


def test_a_likelier_token_is_one_with_a_greater_logit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("transformer")
    logits = np.array([[1.0, 3.0, 3.0, 2.0, 5.0]] * 4, np.float32)
    monkeypatch.setattr(model, "output_projection", lambda hidden: tf.constant(logits)[: tf.shape(hidden)[0]])
    found = scored(model, SOURCE_IDS[:1], SOURCE_LENGTHS[:1], np.array([[4, 1, 2, 0]], np.int32), np.array([4]))
    assert found.token_ranks.tolist() == [[0, 1, 1, 4]]  # 1 and 2 are equally likely: neither is likelier
    expected = logits[0, [4, 1, 2, 0]] - np.log(np.exp(logits[0]).sum())
    np.testing.assert_allclose(found.token_log_probs, [expected], atol=1e-6)


def test_padding_and_batch_mates_change_nothing(model: Seq2SeqModel, scores: Scores) -> None:
    for row, (length, target_length) in enumerate(zip(SOURCE_LENGTHS, TARGET_LENGTHS, strict=True)):
        rows = slice(row, row + 1)
        alone = scored(
            model,
            SOURCE_IDS[rows, :length],
            SOURCE_LENGTHS[rows],
            TARGET_IDS[rows, :target_length],
            TARGET_LENGTHS[rows],
        )
        together = scores.token_log_probs[row, :target_length]
        np.testing.assert_allclose(together, alone.token_log_probs[0], atol=1e-4)
        if scores.attention is not None:
            together = scores.attention[row, :target_length, :length]
            np.testing.assert_allclose(together, alone.attention[0], atol=1e-4)


def test_any_number_of_tokens_is_scored_in_pieces(
    model: Seq2SeqModel, scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (1, 4, 13):  # 13 tokens: the last piece is full, is not, and is the only one
        monkeypatch.setattr(scoring, "_TOKENS_AT_A_TIME", size)
        pieces = scored(model, SOURCE_IDS, SOURCE_LENGTHS, TARGET_IDS, TARGET_LENGTHS)
        np.testing.assert_allclose(pieces.token_log_probs, scores.token_log_probs, atol=1e-5)
        np.testing.assert_array_equal(pieces.token_ranks, scores.token_ranks)


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("prefix_lengths", [[0, 0, 0, 0], [2, 0, 1, 2]])
def test_a_hypothesis_has_the_scores_that_its_search_gave_it(
    model: Seq2SeqModel, beam_size: int, prefix_lengths: list[int]
) -> None:
    """Those that end and those cut at their length; a prefix is given, not scored by the search."""
    asked = options(
        4,
        num_hypotheses=beam_size,
        max_new_tokens=[9, 4, 9, 1],
        min_new_tokens=[0, 0, 3, 0],
        prefix_ids=TARGET_IDS[:, :2],
        prefix_lengths=prefix_lengths,
    )
    step, source = model.decoder_step(), (tf.constant(SOURCE_IDS), tf.constant(SOURCE_LENGTHS))
    if beam_size == 1:
        found = greedy_search(step, *source, asked, TOKENS)
    else:
        found = beam_search(step, *source, beam_size, asked, TOKENS)
    rows, places = np.nonzero(found.lengths.numpy())
    new = found.ids.numpy()[rows, places]
    prefixes = np.array(prefix_lengths)[rows]
    targets = np.zeros([len(rows), 2 + new.shape[1]], np.int32)
    for index, row in enumerate(rows):
        targets[index, : prefixes[index]] = TARGET_IDS[row, : prefixes[index]]
        targets[index, prefixes[index] : prefixes[index] + new.shape[1]] = new[index]
    lengths = prefixes + found.lengths.numpy()[rows, places]
    scores = scored(model, SOURCE_IDS[rows], SOURCE_LENGTHS[rows], targets, lengths.astype(np.int32))
    assert len(rows) >= 4
    for index, (row, place) in enumerate(zip(rows, places, strict=True)):
        own = scores.token_log_probs[index, prefixes[index] : lengths[index]]
        said = found.token_log_probs[row, place, : len(own)]
        np.testing.assert_allclose(own, said, atol=2e-4)
        np.testing.assert_allclose(own.sum(), found.scores[row, place], atol=1e-3)


# --- attention --------------------------------------------------------------------------------------------------------


def test_models_with_attention_say_what_they_attend_to(model: Seq2SeqModel, scores: Scores) -> None:
    assert model.has_attention is (getattr(model.config, "attention", None) != "none")
    if not model.has_attention:
        assert scores.attention is None
        return
    assert scores.attention.shape == (4, 6, 5)
    np.testing.assert_allclose(scores.attention.sum(-1), INSIDE, atol=1e-5)
    beyond = np.arange(5) >= SOURCE_LENGTHS[:, None]
    assert (scores.attention.transpose(0, 2, 1)[beyond] == 0.0).all()
    assert (scores.attention[~INSIDE] == 0.0).all()
    assert np.ptp(scores.attention[1, :6, :1]) == 0.0  # one source token gets all of it
    assert np.ptp(scores.attention[3, :4, :4], axis=0).max() > 1e-3  # it differs by target token


@pytest.mark.parametrize("name", ["transformer", "transformer-pre-norm"])
def test_a_transformer_tells_the_mean_over_the_heads_of_its_last_layer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(name)
    seen = []
    plain = CrossAttention.attention_weights

    def watched(self: CrossAttention, query: tf.Tensor, key: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        seen.append((self.name, plain(self, query, key, bias)))
        return seen[-1][1]

    monkeypatch.setattr(CrossAttention, "attention_weights", watched)
    found = scored(model, SOURCE_IDS, SOURCE_LENGTHS, TARGET_IDS, TARGET_LENGTHS)
    assert [weights.shape for _, weights in seen] == [(4, 2, 6, 5)] * 2
    first, last = (weights.numpy().mean(axis=1) for _, weights in seen)
    np.testing.assert_allclose(found.attention[INSIDE], last[INSIDE], atol=1e-6)
    assert not np.allclose(first[INSIDE], last[INSIDE], atol=1e-2)


def test_a_recurrent_model_tells_the_weights_with_which_it_read_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("gru-attention")
    seen = []
    plain = AdditiveAttention.call

    def watched(self: AdditiveAttention, *arguments: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seen.append(plain(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(AdditiveAttention, "call", watched)
    found = scored(model, SOURCE_IDS, SOURCE_LENGTHS, TARGET_IDS, TARGET_LENGTHS)
    read = np.stack([weights.numpy()[:, 0] for _, weights in seen], axis=1)
    assert read.shape == (4, 6, 5)
    np.testing.assert_array_equal(found.attention[INSIDE], read[INSIDE])
