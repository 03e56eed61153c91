from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from model_export.contract import OPTIONS, SIGNATURES
from service.backends.signatures import check_inputs
from service.batching.rows import ScoringRow, batch_inputs, padding_ratio, split_outputs
from service.errors import BackendFailed
from tests.support.rows import make_row


def outputs(rows: int = 2, hypotheses: int = 2, tokens: int = 3) -> dict[str, NDArray[np.generic]]:
    """An answer of the right names and shapes."""
    sizes = {"B": rows, "K": hypotheses, "T": tokens}
    return {
        name: np.arange(np.prod(shape := [sizes[str(letter)] for letter in spec.shape]))
        .reshape(shape)
        .astype(spec.dtype)
        for name, spec in SIGNATURES["generate_ids"].outputs.items()
    }


def test_rows_are_padded_side_by_side_with_their_own_options() -> None:
    inputs = batch_inputs([make_row(3, length_penalty=0.5), make_row(2, max_new_tokens=7, min_new_tokens=1)])
    check_inputs("generate_ids", SIGNATURES["generate_ids"], inputs)
    assert inputs["source_ids"].tolist() == [[260, 261, 3], [260, 3, 0]]
    assert inputs["source_lengths"].tolist() == [3, 2]
    assert inputs["prefix_ids"].tolist() == [[0], [0]]
    assert inputs["prefix_lengths"].tolist() == [0, 0]
    assert inputs["max_new_tokens"].tolist() == [128, 7]
    assert inputs["min_new_tokens"].tolist() == [0, 1]
    assert inputs["length_penalty"].tolist() == [0.5, 1.0]


def test_rows_whose_texts_the_graph_tokenizes_send_these_instead() -> None:
    rows = [make_row(3, text="the word"), make_row(2, text="말길")]
    assert [row.signature for row in (*rows, make_row())] == ["generate", "generate", "generate_ids"]
    inputs = batch_inputs(rows)
    check_inputs("generate", SIGNATURES["generate"], inputs)
    assert inputs["texts"].tolist() == [b"the word", "말길".encode()]


def test_sentences_of_the_graph_are_each_rows_own() -> None:
    answer = outputs() | {"sentences": np.array([[b"a", b"b"], [b"c", b"d"]], object)}
    answer["source_lengths"] = np.array([5, 6], np.int32)
    first, second = split_outputs(answer, [make_row(), make_row(beam_size=2, num_hypotheses=2)])
    assert (first.sentences, second.sentences) == ([b"a"], [b"c", b"d"])
    assert (first.source_tokens, second.source_tokens) == (5, 6)
    (without,) = split_outputs(outputs(rows=1), [make_row()])
    assert without.sentences is None


def test_options_left_alone_are_neutral_on_the_wire() -> None:
    inputs = batch_inputs([make_row()])
    for name, option in OPTIONS.items():
        assert name == "max_new_tokens" or inputs[name].tolist() == [option.neutral]


def test_steps_are_those_of_the_target_behind_its_prefix_within_what_is_allowed() -> None:
    assert make_row(10).steps(12.5) == 12.5
    assert make_row(10, max_new_tokens=3).steps(12.5) == 3
    assert make_row(10, min_new_tokens=30).steps(12.5) == 30
    prefixed = replace(make_row(10), prefix_ids=range(5))
    assert (prefixed.reads, prefixed.steps(12.5), prefixed.steps(4.0)) == (15, 7.5, 1)


def test_beams_and_samples_are_decoded_side_by_side() -> None:
    assert make_row().width == 1
    assert make_row(beam_size=4, num_hypotheses=2).width == 4
    assert make_row(do_sample=True, num_hypotheses=3).width == 3


def test_a_target_to_score_is_read_in_one_step() -> None:
    row = ScoringRow("echo", 1, range(6), range(4))
    assert (row.reads, row.steps(100.0), row.width) == (10, 1, 1)


def test_padding_ratio_is_the_share_of_padded_source_positions() -> None:
    assert padding_ratio([make_row(4), make_row(4)]) == 0.0
    assert padding_ratio([make_row(4), make_row(2)]) == 0.25


def test_each_row_gets_its_own_hypotheses() -> None:
    answer = outputs()
    first, second = split_outputs(answer, [make_row(), make_row(beam_size=2, num_hypotheses=2)])
    assert first.ids == [[0, 1, 2]]
    assert second.ids == [[6, 7, 8], [9, 10, 11]]
    assert second.scores == [2.0, 3.0]


def test_too_few_hypotheses_are_the_backends_fault() -> None:
    with pytest.raises(BackendFailed, match="has 1 hypotheses, fewer than were asked for"):
        split_outputs(outputs(hypotheses=1), [make_row(), make_row(beam_size=2, num_hypotheses=2)])
