"""The exported graph's scores of given targets: those of its searches, row by row, and clear refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model_export.artifact.calls import Row, Signature, generate_ids_inputs, on_arrays, score_ids_inputs, text_array
from model_export.artifact.serving_module import ServingModule
from model_export.config import LimitsConfig
from model_export.contract import MANIFEST_ASSET, SIGNATURES, TOKENIZER_ASSET, FinishReason, Limits
from model_export.models import build_model
from model_export.text.tokenizers import EOS_ID, SentencePieceTokenizer
from tests.support.mixed_rows import MIXED, framed, no_rows, set_option, with_beams
from tests.support.tiny_models import LIMITS, RNN, VOCABULARY_SIZE, tiny_tokenizer

Signatures = Mapping[str, Signature]

PAIRS = (
    ("the cat sat on the mat", "le chat est sur le tapis"),
    ("오늘 날씨가 좋네요", ""),
    ("🎉 unknown ሰላም", "ねこ"),
    ("a", "the sea, the sea and the rain"),
)


def score_inputs(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    texts, targets = zip(*pairs, strict=True)
    return {"texts": text_array(texts), "targets": text_array(targets)}


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_hypothesis_has_the_scores_that_generate_gave_it(signatures: Signatures, beam_size: int) -> None:
    """Those that end and those that were cut; ``score_ids`` scores the tokens of a prefix too."""
    rows = framed(with_beams(MIXED, beam_size), signatures["tokenize"])
    outputs = signatures["generate_ids"](generate_ids_inputs(rows))
    assert set(outputs["finish_reasons"].flat) >= {FinishReason.EOS_TOKEN, FinishReason.LENGTH}
    found = [(row, place) for row, place in zip(*np.nonzero(outputs["lengths"]), strict=True)]
    lengths = [outputs["lengths"][place] for place in found]
    new = [outputs["ids"][place][:length] for place, length in zip(found, lengths, strict=True)]
    targets = [(*rows[row].prefix_ids, *ids.tolist()) for (row, _), ids in zip(found, new, strict=True)]
    scores = signatures["score_ids"](score_ids_inputs([rows[row].source_ids for row, _ in found], targets))
    assert scores["lengths"].tolist() == [len(target) for target in targets]
    for index, (place, length) in enumerate(zip(found, lengths, strict=True)):
        own = scores["token_log_probs"][index, len(targets[index]) - length : len(targets[index])]
        np.testing.assert_allclose(own, outputs["token_log_probs"][place][:length], atol=2e-4)
        np.testing.assert_allclose(own.sum(), outputs["scores"][place], atol=5e-4)


def test_score_is_score_ids_of_the_tokens_and_eos(signatures: Signatures) -> None:
    scores = signatures["score"](score_inputs(PAIRS))
    sources, targets = (
        [row.source_ids for row in framed([Row(text, ()) for text in texts], signatures["tokenize"])]
        for texts in zip(*PAIRS, strict=True)
    )
    expected = signatures["score_ids"](score_ids_inputs(sources, targets))
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    assert scores["lengths"].tolist() == [len(target) for target in targets]
    assert scores["lengths"][1] == 1, "an empty target is the end alone"
    assert scores["source_lengths"].tolist() == [len(source) for source in sources]
    inside = np.arange(scores["token_log_probs"].shape[1]) < scores["lengths"][:, None]
    assert (scores["token_log_probs"][~inside] == 0.0).all()
    assert (scores["token_ranks"][~inside] == 0).all()
    assert (scores["token_log_probs"][inside] < 0.0).all()
    mean = scores["token_log_probs"].sum(axis=1) / scores["lengths"]
    np.testing.assert_allclose(scores["perplexity"], np.exp(-mean), rtol=1e-5)


@pytest.mark.parametrize("signature", ["score", "align"])
def test_a_pair_is_scored_as_if_alone(signatures: Signatures, signature: str) -> None:
    together = signatures[signature](score_inputs(PAIRS))
    for index, pair in enumerate(PAIRS):
        alone = signatures[signature](score_inputs([pair]))
        for name, values in alone.items():
            inside = (index, *(slice(size) for size in values.shape[1:]))
            np.testing.assert_allclose(together[name][inside], values[0], rtol=1e-4, atol=1e-4, err_msg=name)


def test_padding_beyond_the_longest_target_is_ignored(signatures: Signatures) -> None:
    narrow = score_ids_inputs([(300, EOS_ID)], [(301, 302)])
    padding = [[0, 0], [0, 2 * LIMITS["max_target_tokens"]]]
    wide = {**narrow, "target_ids": np.pad(narrow["target_ids"], padding, constant_values=-1)}
    found, expected = (signatures["score_ids"](inputs) for inputs in (wide, narrow))
    np.testing.assert_allclose(found["token_log_probs"], expected["token_log_probs"], atol=1e-5)


def test_align_tells_what_is_attended_to_beside_the_scores(signatures: Signatures) -> None:
    found, scores = (signatures[name](score_inputs(PAIRS)) for name in ("align", "score"))
    attention = found.pop("attention")
    assert attention.shape == (4, scores["lengths"].max(), scores["source_lengths"].max())
    for name, values in scores.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    for paid, length, source_length in zip(attention, scores["lengths"], scores["source_lengths"], strict=True):
        np.testing.assert_allclose(paid[:length, :source_length].sum(axis=1), 1.0, atol=1e-5)
        assert (paid[:length, :source_length] >= 0.0).all()
        assert not paid[length:].any()
        assert not paid[:, source_length:].any()


def test_a_model_without_attention_has_everything_but_align(tmp_path: Path) -> None:
    for asset in (MANIFEST_ASSET, TOKENIZER_ASSET):
        (tmp_path / asset).touch()
    model = build_model(RNN.model_copy(update={"attention": "none"}), LimitsConfig(**LIMITS))
    module = ServingModule(model, model.pack(), SentencePieceTokenizer(tiny_tokenizer()), Limits(**LIMITS), tmp_path)
    assert module.functions.keys() == SIGNATURES.keys() - {"align"}
    scores = on_arrays(module.functions["score"])(score_inputs(PAIRS))
    assert scores.keys() == SIGNATURES["score"].outputs.keys()
    assert (scores["perplexity"] > 1.0).all()


# --- refusals ---------------------------------------------------------------------------------------------------------


SCORE_REFUSALS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "an empty batch": (no_rows, "source_ids is empty: a call needs at least one row"),
    "unequal rows": (
        lambda inputs: inputs.update(target_lengths=inputs["target_lengths"][:1]),
        "inputs that differ from source_ids in their number of rows:",
    ),
    "an empty target": (set_option("target_lengths", 0), "a target must have 1..32 tokens, EOS counted:"),
    "a target longer than its table": (
        set_option("target_lengths", 9),
        "target_lengths must be at most the columns of target_ids:",
    ),
    "a negative target length": (
        set_option("target_lengths", -1),
        "target_lengths must be at most the columns of target_ids:",
    ),
    "a long target": (
        lambda inputs: inputs.update(
            target_ids=np.full([2, 33], 300, np.int32), target_lengths=np.full([2], 33, np.int32)
        ),
        "a target must have 1..32 tokens, EOS counted:",
    ),
    "an unknown target id": (set_option("target_ids", VOCABULARY_SIZE), "target_ids must be 0..339:"),
    "an unknown source id": (set_option("source_ids", -1), "source_ids must be 0..339:"),
    "an empty source": (set_option("source_lengths", 0), "a source must have 1..48 tokens, EOS counted:"),
}


@pytest.mark.parametrize("reason", SCORE_REFUSALS)
def test_refuses_to_score(reason: str, transformer: Signatures) -> None:
    change, message = SCORE_REFUSALS[reason]
    inputs = score_ids_inputs([(300, 301, EOS_ID), (302, EOS_ID)], [(303, EOS_ID), (304,)])
    transformer["score_ids"](inputs)
    change(inputs)
    with pytest.raises(tf.errors.InvalidArgumentError) as refusal:
        transformer["score_ids"](inputs)
    assert f"assertion failed: [{message}]" in str(refusal.value)


@pytest.mark.parametrize("signature", ["score", "align"])
def test_refuses_a_target_that_is_too_long(signature: str, transformer: Signatures) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a target must have 1\.\.32 tokens, EOS counted"):
        transformer[signature](score_inputs([("ok", "the cat " * 40)]))
