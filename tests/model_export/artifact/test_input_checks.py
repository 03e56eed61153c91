"""What the graph says about options: their bounds, each with a message that says what would be right."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from model_export.artifact.input_checks import check_options
from model_export.contract import OPTIONS, Limits

LIMITS = Limits(max_source_tokens=48, max_target_tokens=32, max_beam_size=6, default_max_new_tokens=20)


def checked(**changes: object) -> dict[str, tf.Tensor]:
    """Two rows of neutral options but for ``changes``: a value for both rows, or a list."""
    values = {name: (option.neutral, option.dtype) for name, option in OPTIONS.items()}
    values |= {name: (value, values[name][1]) for name, value in changes.items()}
    rows = {name: tf.constant(np.broadcast_to(value, [2]), dtype) for name, (value, dtype) in values.items()}
    prefix = {"prefix_ids": tf.zeros([2, 1], tf.int32), "prefix_lengths": tf.zeros([2], tf.int32)}
    return check_options({**rows, **prefix}, LIMITS)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": [1e-9, 100.0], "top_k": [0, 2**31 - 1], "top_p": [1e-9, 1.0], "do_sample": [True, False]},
        {"repetition_penalty": [0.01, 100.0], "no_repeat_ngram_size": [0, 8], "disable_unk": [True, False]},
        {"seed": [-(2**63), 2**63 - 1], "do_sample": True, "num_hypotheses": [6, 1]},
        {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "beam_size": 2, "num_hypotheses": [2, 1]},
    ],
)
def test_takes_what_is_within_bounds(changes: dict[str, object]) -> None:
    found = checked(**changes)
    for name, value in changes.items():
        np.testing.assert_array_equal(found[name], np.broadcast_to(value, [2]).astype(OPTIONS[name].dtype))
    assert found["max_new_tokens"].numpy().tolist() == [20, 20]


NAN, INFINITY = float("nan"), float("inf")
TEMPERATURE = "temperature must be more than 0 and at most 100:"
PENALTY = "repetition_penalty must be 0.01..100:"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(("temperature", value, TEMPERATURE) for value in (0.0, -1.0, 101.0, NAN, INFINITY)),
        *(("repetition_penalty", value, PENALTY) for value in (0.0, 0.009, 1.2e-38, -2.0, 101.0, NAN, INFINITY)),
        *(("top_p", value, "top_p must be more than 0 and at most 1:") for value in (0.0, -0.1, 1.001, NAN)),
        ("top_k", -1, "top_k must be 0 or more:"),
        *(("no_repeat_ngram_size", value, "no_repeat_ngram_size must be 0..8:") for value in (-1, 9)),
        *(("length_penalty", value, "length_penalty must be -10..10:") for value in (11.0, NAN)),
    ],
)
@pytest.mark.parametrize("do_sample", [True, False])
def test_refuses_what_is_out_of_bounds_in_any_row(name: str, value: float, message: str, do_sample: bool) -> None:
    neutral = OPTIONS[name].neutral
    with pytest.raises(tf.errors.InvalidArgumentError) as refusal:
        checked(do_sample=do_sample, **{name: [neutral, value]})
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_sample": [False, True], "beam_size": 2}, "do_sample needs beam_size 1: beams do not draw, beam_size is"),
        ({"num_hypotheses": [1, 2]}, "num_hypotheses must be 1..beam_size:"),
        ({"num_hypotheses": [2, 2], "do_sample": [True, False]}, "num_hypotheses must be 1..beam_size:"),
        ({"num_hypotheses": [1, 7], "do_sample": True}, "num_hypotheses must be 1..6 with do_sample:"),
        ({"num_hypotheses": [1, 0], "do_sample": True}, "num_hypotheses must be 1..6 with do_sample:"),
    ],
)
def test_refuses_options_that_do_not_go_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError) as refusal:
        checked(**changes)
    assert message in str(refusal.value)
