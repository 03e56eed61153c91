"""Means over tokens, and answers that are each given once."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tensorflow as tf

from model_export.config import TokenizerConfig
from model_export.models import build_model
from model_export.text.pairs import TextPairs
from model_export.text.tokenizers import BOS_ID, SentencePieceTokenizer, train_sentencepiece
from model_export.training.corpus import Corpus
from model_export.training.metrics import Evaluator
from model_export.training.model import TrainingModel, compile_for_training
from tests.support.tiny_training import pairs, tiny_config


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    texts = [text for pair in pairs(12) for text in pair]
    return SentencePieceTokenizer(train_sentencepiece(texts, 300, TokenizerConfig(model_type="bpe")))


def corpus_of(rows: list[tuple[str, str]], tokenizer: SentencePieceTokenizer) -> Corpus:
    texts = TextPairs([source for source, _ in rows], [target for _, target in rows])
    return Corpus.encode(texts, ["valid.tsv"], tokenizer, tiny_config())


@pytest.fixture(scope="module")
def corpus(tokenizer: SentencePieceTokenizer) -> Corpus:
    """Twelve sources, one of them twice."""
    return corpus_of([*pairs(12), (pairs(1)[0][0], "autre réponse")], tokenizer)


@pytest.fixture(scope="module")
def training() -> TrainingModel:
    config = tiny_config()
    random.seed(5)  # Keras draws the seeds of its initializers from it
    return compile_for_training(build_model(config.model, config.limits), config.training, 10)


@pytest.fixture(scope="module")
def evaluator(training: TrainingModel, tokenizer: SentencePieceTokenizer, corpus: Corpus) -> Evaluator:
    return Evaluator(training, tokenizer, tiny_config().limits, corpus, batch_tokens=64)


def test_losses_are_means_over_tokens_whatever_the_batches(
    training: TrainingModel, corpus: Corpus, evaluator: Evaluator
) -> None:
    """Each pair by itself, without a batch, padding or Keras."""
    total = correct = tokens = 0.0
    for source, labels in zip(corpus.encoded.source_ids.to_list(), corpus.encoded.labels.to_list(), strict=True):
        inputs = {
            "source_ids": tf.constant([source]),
            "source_lengths": tf.constant([len(source)]),
            "target_ids": tf.constant([[BOS_ID, *labels[:-1]]]),
        }
        log_probs = tf.nn.log_softmax(training.model(inputs))[0].numpy()
        total -= log_probs[np.arange(len(labels)), labels].sum()
        correct += (log_probs.argmax(-1) == labels).sum()
        tokens += len(labels)
    found = evaluator.losses()

    assert found["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(total / tokens), rel=1e-4)
    assert found["accuracy"] == pytest.approx(correct / tokens)


def test_every_source_is_translated_once_whatever_the_batches(
    training: TrainingModel, tokenizer: SentencePieceTokenizer, corpus: Corpus, evaluator: Evaluator
) -> None:
    written = evaluator.translate()

    assert list(written) == list(dict.fromkeys(corpus.pairs.sources))
    assert len(written) == 12
    assert len(set(written.values())) > 1
    rows = pairs(12)[7:8]
    alone = Evaluator(training, tokenizer, tiny_config().limits, corpus_of(rows, tokenizer), batch_tokens=64)
    assert alone.translate() == {rows[0][0]: written[rows[0][0]]}


def test_batches_and_sources_are_told(evaluator: Evaluator) -> None:
    told: list[tuple[str, int, int]] = []

    evaluator.losses(lambda *stage: told.append(stage))
    batches = told[-1][2]
    assert batches > 1
    assert [stage[1:] for stage in told] == [(done, batches) for done in range(batches + 1)]

    told.clear()
    evaluator.translate(lambda *stage: told.append(stage))
    assert told[0][1:] == (0, 12)
    assert len(told) > 1
    assert all(total == 12 for _, _, total in told)


def test_perfect_answers_score_100(corpus: Corpus, evaluator: Evaluator) -> None:
    written = dict(zip(corpus.pairs.sources, corpus.pairs.targets, strict=True))

    assert evaluator.scores(written) == {"bleu": pytest.approx(100.0), "chrf": pytest.approx(100.0)}
