"""The exported graph: the live model's answers, row by row, and clear refusals, in the runtimes that serve it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model_export.artifact.calls import (
    Answer,
    Row,
    Signature,
    generate_ids_inputs,
    generate_inputs,
    padded,
    read_answers,
    text_array,
)
from model_export.config import RnnConfig, TransformerConfig
from model_export.contract import FinishReason
from model_export.decoding import DecodingOptions, Hypotheses, TokenIds, beam_search, greedy_search
from model_export.text.tokenizers import BOS_ID, EOS_ID, PAD_ID, UNK_ID, SentencePieceTokenizer
from tests.support.mixed_rows import MIXED, framed, no_rows, set_option, with_beams
from tests.support.tiny_models import CORPUS, LIMITS, RNN, TRANSFORMER, VOCABULARY_SIZE, tiny_model

Signatures = Mapping[str, Signature]

CONFIGS = {"transformer": TRANSFORMER, "rnn": RNN}


def live_answers(config: TransformerConfig | RnnConfig, rows: list[Row], beam_size: int) -> list[Answer]:
    """What the model answers without any export: its searches called as they are."""
    trained = tiny_model(config)
    tokenizer = SentencePieceTokenizer(trained.tokenizer)
    inputs = {name: tf.constant(value) for name, value in generate_ids_inputs(rows).items()}
    room = LIMITS["max_target_tokens"] - inputs["prefix_lengths"]
    default = tf.minimum(LIMITS["default_max_new_tokens"], room)
    inputs["max_new_tokens"] = tf.where(inputs["max_new_tokens"] == 0, default, inputs["max_new_tokens"])
    options = DecodingOptions(**{name: inputs[name] for name in DecodingOptions._fields})
    tokens = TokenIds(BOS_ID, EOS_ID, PAD_ID, (PAD_ID, BOS_ID, UNK_ID))
    step = trained.model.decoder_step()

    @tf.function(autograph=False)
    def search(beam_sizes: tf.Tensor) -> Hypotheses:
        source = inputs["source_ids"], inputs["source_lengths"]
        if beam_size == 1:
            return greedy_search(step, *source, options, tokens)
        return beam_search(step, *source, beam_sizes, options, tokens)

    answers = read_answers({name: field.numpy() for name, field in search(inputs["beam_size"])._asdict().items()}, rows)
    return [
        replace(answer, sentences=spelled(answer, row, tokenizer)) for answer, row in zip(answers, rows, strict=True)
    ]


def spelled(answer: Answer, row: Row, tokenizer: SentencePieceTokenizer) -> tuple[str, ...]:
    tokens = [[*row.prefix_ids, *(token for token in ids if token != EOS_ID)] for ids in answer.ids]
    return tuple(text.decode() for text in tokenizer.detokenize(tf.ragged.constant(tokens, tf.int32)).numpy())


def assert_same(found: Answer, expected: Answer) -> None:
    assert found.ids == expected.ids
    assert found.finish_reasons == expected.finish_reasons
    assert found.sentences == expected.sentences
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_mixed_batch_gets_the_live_models_answers(name: str, signatures: Signatures, beam_size: int) -> None:
    rows = framed(with_beams(MIXED, beam_size), signatures["tokenize"])

    by_text = read_answers(signatures["generate"](generate_inputs(rows)), rows)
    by_ids = read_answers(signatures["generate_ids"](generate_ids_inputs(rows)), rows)

    for found, ids, expected in zip(by_text, by_ids, live_answers(CONFIGS[name], rows, beam_size), strict=True):
        assert_same(found, expected)
        assert_same(replace(ids, sentences=expected.sentences), expected)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_row_of_a_mixed_batch_is_answered_as_if_alone(signatures: Signatures, beam_size: int) -> None:
    rows = with_beams(MIXED, beam_size)
    together = read_answers(signatures["generate"](generate_inputs(rows)), rows)
    for row, answer in zip(rows, together, strict=True):
        (alone,) = read_answers(signatures["generate"](generate_inputs([row])), [row])
        assert_same(answer, alone)


def test_padding_beyond_the_longest_source_is_ignored(signatures: Signatures) -> None:
    row = Row("", (300, 301, EOS_ID))
    narrow = generate_ids_inputs([row])
    padding = [[0, 0], [0, LIMITS["max_source_tokens"]]]
    wide = {**narrow, "source_ids": np.pad(narrow["source_ids"], padding, constant_values=-1)}
    found, expected = (read_answers(signatures["generate_ids"](inputs), [row]) for inputs in (wide, narrow))
    assert_same(found[0], expected[0])


def test_outputs_hold_together(signatures: Signatures) -> None:
    rows = with_beams(MIXED, 3)
    outputs = signatures["generate"](generate_inputs(rows))
    width = outputs["ids"].shape[2]
    for index, row in enumerate(rows):
        asked = row.option("num_hypotheses")
        reasons = outputs["finish_reasons"][index]
        assert (reasons[asked:] == FinishReason.NONE).all()
        assert (outputs["sentences"][index, asked:] == b"").all()
        assert (reasons[:asked] != FinishReason.NONE).all()
        ends = outputs["ids"][index, range(asked), outputs["lengths"][index, :asked] - 1] == EOS_ID
        np.testing.assert_array_equal(ends, reasons[:asked] == FinishReason.EOS_TOKEN)
    inside = np.arange(width) < outputs["lengths"][:, :, None]
    assert (outputs["ids"][~inside] == PAD_ID).all()
    sums = np.where(inside, outputs["token_log_probs"], 0.0).sum(axis=2)
    found = outputs["finish_reasons"] != FinishReason.NONE
    np.testing.assert_allclose(outputs["scores"][found], sums[found], atol=1e-4)
    penalties = np.array([row.option("length_penalty") for row in rows])[:, None]
    normalized = outputs["scores"][found] / (outputs["lengths"] ** penalties)[found]
    np.testing.assert_allclose(outputs["normalized_scores"][found], normalized, rtol=1e-5)


def test_serving_default_is_greedy_with_default_options(signatures: Signatures) -> None:
    outputs = signatures["serving_default"]({"texts": text_array(CORPUS)})
    expected = signatures["generate"](generate_inputs([Row(text, ()) for text in CORPUS]))
    assert outputs["sentences"].tolist() == expected["sentences"][:, 0].tolist()
    perplexity = np.exp(-expected["scores"][:, 0] / expected["lengths"][:, 0])
    np.testing.assert_allclose(outputs["perplexity"], perplexity, rtol=1e-4)


def test_beam_search_gives_every_hypothesis(signatures: Signatures) -> None:
    options = {"beam_size": 3, "num_hypotheses": 3}
    outputs = signatures["beam_search"]({"texts": text_array(CORPUS[:4]), "beam_size": np.array(3, np.int32)})
    expected = signatures["generate"](generate_inputs([Row(text, (), options) for text in CORPUS[:4]]))
    assert outputs["sentences"].shape == (4, 3)
    assert outputs["sentences"].tolist() == expected["sentences"].tolist()
    np.testing.assert_allclose(outputs["perplexity"], np.exp(-expected["scores"] / expected["lengths"]), rtol=1e-4)


def test_tokenize_and_detokenize_are_inverse(transformer: Signatures) -> None:
    texts = [*CORPUS, "", "🎉 ሰላም"]
    outputs = transformer["tokenize"]({"texts": text_array(texts)})
    for text, pieces, length in zip(texts, outputs["pieces"], outputs["lengths"], strict=True):
        assert (pieces[length:] == b"").all()
        if "🎉" not in text:
            assert b"".join(pieces[:length]).decode().replace("▁", " ").strip() == text
    ids = np.where(np.arange(outputs["ids"].shape[1]) < outputs["lengths"][:, None], outputs["ids"], 99_999)
    again = transformer["detokenize"]({"ids": ids, "lengths": outputs["lengths"]})
    assert [sentence.decode() for sentence in again["sentences"]] == texts


# --- refusals ---------------------------------------------------------------------------------------------------------


def long_prefix(inputs: dict[str, Any]) -> None:
    inputs["prefix_ids"], inputs["prefix_lengths"] = padded([[300] * LIMITS["max_target_tokens"]] * 2)


REFUSALS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "an empty batch": (no_rows, "source_ids is empty: a call needs at least one row"),
    "unequal rows": (
        lambda inputs: inputs.update(seed=inputs["seed"][:1]),
        "inputs that differ from source_ids in their number of rows:",
    ),
    "a beam size of 0": (set_option("beam_size", 0), "beam_size must be 1..6:"),
    "a wide beam": (set_option("beam_size", 7), "beam_size must be 1..6:"),
    "more hypotheses than beams": (set_option("num_hypotheses", 2), "num_hypotheses must be 1..beam_size:"),
    "negative new tokens": (
        set_option("max_new_tokens", -1),
        "max_new_tokens must be 1 or more, or 0 for the default:",
    ),
    "too many new tokens": (set_option("max_new_tokens", 33), "prefix_lengths + max_new_tokens must be at most 32:"),
    "a long prefix": (long_prefix, "a prefix must be shorter than 32 tokens:"),
    "min over max": (set_option("min_new_tokens", 21), "min_new_tokens must be at most max_new_tokens:"),
    "negative minimum": (set_option("min_new_tokens", -1), "min_new_tokens must be 0 or more:"),
    "a length penalty that is no number": (set_option("length_penalty", np.nan), "length_penalty must be -10..10:"),
    "a length penalty that overflows": (set_option("length_penalty", -200.0), "length_penalty must be -10..10:"),
    "no prefix column": (
        lambda inputs: inputs.update(prefix_ids=inputs["prefix_ids"][:, :0]),
        "prefix_ids must have at least one column",
    ),
    "a prefix longer than its table": (
        set_option("prefix_lengths", 2),
        "prefix_lengths must be at most the columns of prefix_ids:",
    ),
    "an unknown prefix id": (
        lambda inputs: inputs.update(
            prefix_ids=np.full([2, 1], VOCABULARY_SIZE, np.int32), prefix_lengths=np.ones([2], np.int32)
        ),
        "prefix_ids must be 0..339:",
    ),
    "an unknown source id": (set_option("source_ids", -1), "source_ids must be 0..339:"),
    "an empty source": (set_option("source_lengths", 0), "a source must have 1..48 tokens, EOS counted:"),
    "a source longer than its table": (
        set_option("source_lengths", 9),
        "source_lengths must be at most the columns of source_ids:",
    ),
    "a long source": (
        lambda inputs: inputs.update(
            source_ids=np.full([2, 49], 300, np.int32), source_lengths=np.full([2], 49, np.int32)
        ),
        "a source must have 1..48 tokens, EOS counted:",
    ),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_refuses(reason: str, transformer: Signatures) -> None:
    change, message = REFUSALS[reason]
    inputs = generate_ids_inputs([Row("", (300, 301, EOS_ID)), Row("", (302, EOS_ID))])
    transformer["generate_ids"](inputs)
    change(inputs)
    with pytest.raises(tf.errors.InvalidArgumentError) as refusal:
        transformer["generate_ids"](inputs)
    assert f"assertion failed: [{message}]" in str(refusal.value)


def test_refuses_with_beams_too(transformer: Signatures) -> None:
    inputs = generate_ids_inputs([Row("", (300, EOS_ID), {"beam_size": 3, "num_hypotheses": 4})])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"num_hypotheses must be 1\.\.beam_size"):
        transformer["generate_ids"](inputs)


@pytest.mark.parametrize("signature", ["serving_default", "tokenize"])
def test_refuses_no_texts(signature: str, transformer: Signatures) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="texts is empty: a call needs at least one row"):
        transformer[signature]({"texts": text_array([])})


def test_refuses_a_text_that_is_too_long(transformer: Signatures) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a source must have 1\.\.48 tokens, EOS counted"):
        transformer["serving_default"]({"texts": text_array(["ok", "the cat " * 40])})


def test_refuses_a_beam_of_nothing(transformer: Signatures) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"beam_size must be 1\.\.6"):
        transformer["beam_search"]({"texts": text_array(["ok"]), "beam_size": np.array(0, np.int32)})
