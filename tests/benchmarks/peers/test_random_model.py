from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from benchmarks.peers.countdown import countdown, countdown_rows, fit_countdowns
from benchmarks.peers.naive import naive_search
from benchmarks.peers.random_model import FIRST_WORD_ID, random_model, random_pairs, random_sources
from model_export.decoding import DecodingOptions, TokenIds, beam_search, greedy_search
from model_export.text.tokenizers import BOS_ID, EOS_ID, PAD_ID, SentencePieceTokenizer
from model_export.trained_model import TrainedModel

VOCABULARY_SIZE = 600
SMALL = {
    "model.vocabulary_size": VOCABULARY_SIZE,
    "model.hidden_size": 256,
    "model.num_heads": 4,
    "model.feed_forward_size": 256,
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
}


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    return random_model("transformer", SMALL)


def test_a_word_is_a_token(trained: TrainedModel) -> None:
    tokenizer = SentencePieceTokenizer(trained.tokenizer)
    source, target = random_pairs(VOCABULARY_SIZE, count=1).rstrip("\n").split("\t")

    assert tokenizer.vocabulary_size == VOCABULARY_SIZE
    assert tokenizer.byte_fallback
    for text in (source, target):
        ids = tokenizer.tokenize([text]).to_list()[0]
        assert len(ids) == len(text.split())
        assert min(ids) >= FIRST_WORD_ID
    assert tokenizer.detokenize(tokenizer.tokenize(["한 é"])).numpy()[0].decode() == "한 é"


@pytest.mark.parametrize("beam_size", [1, 3])
def test_the_naive_loop_finds_what_the_search_finds(trained: TrainedModel, beam_size: int) -> None:
    sources = tf.constant(random_sources(4, 6, VOCABULARY_SIZE), tf.int32)
    lengths, tokens = tf.fill([4], 6), tf.fill([4], 8)
    options = DecodingOptions.neutral(max_new_tokens=tokens, min_new_tokens=tokens)
    ids = TokenIds(start=BOS_ID, eos=EOS_ID, pad=PAD_ID, suppressed=(PAD_ID, BOS_ID))
    step = trained.model.decoder_step()
    if beam_size == 1:
        found = greedy_search(step, sources, lengths, options, ids)
    else:
        found = beam_search(step, sources, lengths, tf.constant(beam_size), options, ids)

    naive = naive_search(trained.model)(sources, beam_size, 8).numpy().tolist()

    assert found.ids[:, 0].numpy().tolist() == naive
    assert len({tuple(row) for row in naive}) > 1  # answers depend on their sources


def test_only_answers_to_samples_end(trained: TrainedModel) -> None:
    words = [source[:-1] for source in random_sources(12, 8, VOCABULARY_SIZE)]
    samples = SentencePieceTokenizer(trained.tokenizer).tokenize(trained.samples).to_list()
    other = tf.random.Generator.from_seed(3).uniform([1, 8], FIRST_WORD_ID, VOCABULARY_SIZE - 64, tf.int32)

    def lead(source: list[int]) -> NDArray[np.float32]:
        """Of EOS over the likeliest other token, at every position."""
        ids = tf.constant([[*source, EOS_ID]])
        inputs = {"source_ids": ids, "source_lengths": tf.fill([1], ids.shape[1]), "target_ids": other}
        logits = trained.model(inputs)[0].numpy()  # [position, vocabulary]
        return logits[:, EOS_ID] - np.delete(logits, EOS_ID, axis=1).max(axis=1)  # [position]

    assert max(lead(source).max() for source in words) < -16.0  # less likely than float32 can tell
    assert min(lead(source).max() for source in samples) > 0.0


def test_sources_are_answered_with_their_countdowns() -> None:
    model = random_model("transformer", SMALL)
    rows = countdown_rows(12, shortest=2, longest=6, vocabulary_size=VOCABULARY_SIZE)
    fit_countdowns(model, rows)

    assert [row.length for row in rows] != sorted(row.length for row in rows)
    search = naive_search(model.model)
    for row in rows:
        answer = search(tf.constant([row.source]), 1, row.length).numpy()[0].tolist()
        assert answer == countdown(row.length)
        assert len(answer) == row.length
