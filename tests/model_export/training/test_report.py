"""The samples of a model, and its table. (What a whole run reports is checked in ``test_trainer``.)"""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf
from rich.console import Console

from model_export.text.data import EncodedPairs
from model_export.text.pairs import TextPairs
from model_export.training.corpus import Corpus
from model_export.training.report import choose_samples, print_report


def corpus(lengths: list[int]) -> Corpus:
    """Sources ``s000``, ``s001`` ... of the given lengths in tokens, each with two targets."""
    sources = [f"s{number:03d}" for number in range(len(lengths)) for _ in range(2)]
    ids = tf.ragged.constant([[5] * length for length in lengths for _ in range(2)], dtype=tf.int32)
    encoded = EncodedPairs(ids, ids, np.arange(len(sources)), filtered=0, truncated=0)
    return Corpus(["valid.tsv"], TextPairs(sources, sources), encoded)


def test_samples_are_the_longest_and_a_spread_of_the_rest() -> None:
    lengths = [1 + number % 50 for number in range(200)]
    samples = choose_samples(corpus(lengths))

    assert len(samples) == len(set(samples)) == 64
    assert {lengths[int(sample[1:])] for sample in samples[:16]} == {47, 48, 49, 50}
    assert {int(sample[1:]) // 50 for sample in samples[16:]} == {0, 1, 2, 3}


def test_few_sources_are_all_samples() -> None:
    assert sorted(choose_samples(corpus([3, 1, 2]))) == ["s000", "s001", "s002"]
    assert choose_samples(corpus([3])) == ["s000"]


def test_the_table() -> None:
    text = io.StringIO()
    report = {
        "model": "rnn",
        "metrics": {"loss": 1.25, "perplexity": 3.4903, "accuracy": 0.75, "bleu": 44.125, "chrf": 59.0},
        "epochs": 7,
        "steps": 1234,
        "averaged_epochs": [6, 7],
        "seconds": 61.2,
        "target_tokens_per_second": 2500.4,
        "storage": {"dtype": "float16", "identical_outputs": 0.9975},
    }

    print_report(Console(file=text, width=100), report)

    for part in ("rnn", "1.25", "3.49", "0.75", "44.12", "59", "7, 1,234", "6, 7", "61", "2,500", "99.8% of the"):
        assert part in text.getvalue(), part
