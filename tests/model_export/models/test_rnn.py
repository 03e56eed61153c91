"""Recurrent models packed in every dtype: near float32, and the same in a step as in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model_export.models import Seq2SeqModel
from model_export.models.precision import InputRange, Precision
from tests.support.random_models import VOCABULARY, random_model

SOURCE_LENGTHS = np.array([7, 1, 4], np.int32)
SOURCE_IDS = np.random.default_rng(0).integers(4, VOCABULARY, [3, 7]).astype(np.int32)
TARGET_IDS = np.random.default_rng(1).integers(4, VOCABULARY, [3, 6]).astype(np.int32)


def whole_pass(model: Seq2SeqModel) -> Any:
    inputs = {"source_ids": SOURCE_IDS, "source_lengths": SOURCE_LENGTHS, "target_ids": TARGET_IDS}
    read = tf.function(lambda: model({name: tf.constant(value) for name, value in inputs.items()}), autograph=False)
    return read().numpy()


def last_step(model: Seq2SeqModel) -> Any:
    """Logits at the last position, after a prefix that is read in one go."""
    step, prefix = model.decoder_step(), TARGET_IDS.shape[1] - 1

    @tf.function(autograph=False)
    def read() -> tf.Tensor:
        state = step.start(tf.constant(SOURCE_IDS), tf.constant(SOURCE_LENGTHS), 1)
        state = step.prefill(tf.constant(TARGET_IDS[:, :prefix]), tf.fill([3], prefix), state)
        return step(tf.constant(TARGET_IDS[:, prefix]), tf.fill([3], prefix), state)[0]

    return read().numpy()


def observed(model: Seq2SeqModel) -> dict[str, InputRange]:
    observers = model.observe()
    assert len(observers) == len(model.linears())
    whole_pass(model)
    return {key: observer.seen for key, observer in observers.items()}


@pytest.mark.parametrize("name", ["lstm-attention", "gru-attention"])
def test_every_dtype_computes_what_float32_does(name: str) -> None:
    model = random_model(name)
    expected = whole_pass(model)
    ranges = observed(model)
    for seen in ranges.values():
        assert -np.inf < seen.low < seen.high < np.inf  # whether a loop reads it or not
    spread = expected.std()
    narrower = [Precision("int8", ranges), Precision("int8"), Precision("bfloat16")]
    for precision in narrower if name == "lstm-attention" else narrower[:1]:
        model.pack(precision)
        found = whole_pass(model)
        assert 1e-5 < np.abs(found - expected).mean() / spread < 0.06, precision
        np.testing.assert_allclose(last_step(model), found[:, -1], atol=0.05 * spread)


def test_ranges_hold_what_a_cell_reads_at_any_position() -> None:
    """A state is read inside a loop alone."""
    model = random_model("lstm-attention")
    for variable in model.weights:
        if "/forward/" in variable.path and variable.path.endswith("/bias"):
            variable.assign(variable + 8.0)  # open gates: outputs come near 1, but never before the second position
    ranges = observed(model)
    assert 0.5 < ranges["rnn/encoder_0/forward/hidden"].high <= 1.0
    assert ranges["rnn/encoder_0/forward/input"].high == pytest.approx(
        model.embedding.table.numpy()[SOURCE_IDS].max(), abs=1e-6
    )
