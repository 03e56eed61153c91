from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from model_export.contract import FinishReason as Code
from service.backends.scripted import tiny_tokenizer
from service.batching import AdmittedRow, RowResult, ScoreResult
from service.engine.admission import Admission
from service.engine.answers import assemble, assemble_scores
from service.errors import BackendFailed
from service.generation import FinishReason, ScoredTarget, TargetToken, Token
from service.tokenization import SentencePieceTokenizer
from tests.support.rows import make_row, make_scoring_row

TOKENIZER = SentencePieceTokenizer(tiny_tokenizer())
THE, WORD = TOKENIZER.encode(["the word"])[0]
EOS = 3


def result(ids: list[list[int]], codes: list[Code], scores: list[float], lengths: list[int] | None = None) -> RowResult:
    width = max(map(len, ids))
    return RowResult(
        ids=[each + [0] * (width - len(each)) for each in ids],
        lengths=lengths or [len(each) for each in ids],
        finish_reasons=codes,
        scores=scores,
        normalized_scores=[score / 2 for score in scores],
        token_log_probs=np.full((len(ids), width), -0.5, np.float32),
        source_tokens=4,
    )


def admission(*warnings: str, **options: object) -> Admission[AdmittedRow]:
    return Admission(make_row(4, **options), 0, warnings, "'max_new_tokens', 2")


def test_numbers_are_those_of_the_new_tokens() -> None:
    (output,) = assemble([admission()], [result([[THE, WORD, EOS]], [Code.EOS_TOKEN], [-1.5])], TOKENIZER)
    (best,) = output.hypotheses
    assert (best.text, best.finish_reason, best.generated_tokens) == ("the word", FinishReason.EOS_TOKEN, 3)
    assert (best.score, best.normalized_score) == (-1.5, -0.75)
    assert best.perplexity == pytest.approx(math.exp(0.5))
    assert output.input_tokens == 4
    assert output.warnings == ()


def test_a_cut_text_keeps_its_last_token() -> None:
    (output,) = assemble([admission()], [result([[THE, WORD]], [Code.LENGTH], [-1.0])], TOKENIZER)
    assert output.warnings == ("output cut by 'max_new_tokens', 2",)
    assert output.hypotheses[0].text == "the word"
    assert output.hypotheses[0].finish_reason is FinishReason.LENGTH


def test_texts_begin_with_the_prefix() -> None:
    row = make_row(4)
    row.prefix_ids = [THE]
    (output,) = assemble([Admission(row, 0)], [result([[WORD, EOS]], [Code.EOS_TOKEN], [-1.0])], TOKENIZER)
    assert output.hypotheses[0].text == "the word"
    assert output.hypotheses[0].generated_tokens == 2


def test_details_spell_the_tokens() -> None:
    (output,) = assemble([admission(details=True)], [result([[THE, EOS]], [Code.EOS_TOKEN], [-1.0])], TOKENIZER)
    assert output.hypotheses[0].tokens == (Token(THE, "▁the", -0.5), Token(EOS, "</s>", -0.5))


def test_places_without_hypothesis_are_left_out_and_rows_keep_apart() -> None:
    first = result([[THE, EOS], [0]], [Code.EOS_TOKEN, Code.NONE], [-1.0, -math.inf], lengths=[2, 0])
    second = result([[WORD, EOS], [THE, EOS]], [Code.EOS_TOKEN] * 2, [-1.0, -2.0])
    outputs = assemble([admission(), admission()], [first, second], TOKENIZER)
    assert [[each.text for each in output.hypotheses] for output in outputs] == [["the"], ["word", "the"]]


def test_texts_and_counts_are_the_graphs_where_it_tokenizes() -> None:
    answer = result([[THE, EOS], [WORD, EOS]], [Code.EOS_TOKEN] * 2, [-1.0, -2.0])
    sentences = [b"one", "길".encode() + b"\xff"]
    answer = answer._replace(source_tokens=9, sentences=sentences)
    (output,) = assemble([admission(details=True)], [answer], TOKENIZER)
    assert [each.text for each in output.hypotheses] == ["one", "길\ufffd"]
    assert output.hypotheses[0].tokens == (Token(THE, "▁the", -0.5), Token(EOS, "</s>", -0.5))
    assert output.input_tokens == 9


@pytest.mark.parametrize("options", [{"details": True}, {"stop": ("the",)}])
def test_log_probabilities_that_are_no_numbers_are_the_models_fault(options: dict[str, Any]) -> None:
    answer = result([[THE, EOS]], [Code.EOS_TOKEN], [-1.0])
    assert assemble([admission()], [answer], TOKENIZER)
    answer.token_log_probs[0, 0] = math.nan
    with pytest.raises(BackendFailed, match="log-probabilities that are no numbers"):
        assemble([admission(**options)], [answer], TOKENIZER)


def test_an_unknown_token_is_the_models_fault_also_beside_a_sentence() -> None:
    answer = result([[10**6, EOS]], [Code.EOS_TOKEN], [-1.0])._replace(sentences=[b"one"])
    with pytest.raises(BackendFailed, match="a token that its tokenizer does not have"):
        assemble([admission(details=True)], [answer], TOKENIZER)


def test_what_admission_and_bounds_warn_of_is_told() -> None:
    ids, codes = [[THE, EOS], [THE, WORD]], [Code.EOS_TOKEN, Code.LENGTH]
    (output,) = assemble([admission("a warning")], [result(ids, codes, [-1.0, -2.0])], TOKENIZER)
    assert output.warnings == ("a warning", "1 of 2 hypotheses cut by 'max_new_tokens', 2")


def test_only_what_is_sampled_has_a_seed() -> None:
    answer = result([[THE, EOS]], [Code.EOS_TOKEN], [-1.0])
    for options, seed in (({"seed": 9}, None), ({"seed": 9, "do_sample": True}, 9)):
        (output,) = assemble([admission(**options)], [answer], TOKENIZER)
        assert output.seed == seed


def test_a_text_that_stops_speaks_of_its_first_tokens() -> None:
    ids = TOKENIZER.encode(["the word 좋다"])[0]
    assert TOKENIZER.pieces(ids) == ["▁the", "▁word", "▁", "좋", "다"]
    answer = result([[*ids, EOS]], [Code.EOS_TOKEN], [-2.75])
    answer.token_log_probs[:] = [-0.5, -0.25, -1.0, -0.5, -0.25, -0.25]
    (output,) = assemble([admission(stop=(" 좋",), details=True)], [answer], TOKENIZER)
    (best,) = output.hypotheses
    assert (best.text, best.finish_reason, best.generated_tokens) == ("the word", FinishReason.STOP_SEQUENCE, 4)
    assert (best.score, best.normalized_score) == (-2.25, -1.375), "it was ranked before it was cut"
    assert best.perplexity == pytest.approx(math.exp(2.25 / 4))
    assert [token.log_prob for token in best.tokens or ()] == [-0.5, -0.25, -1.0, -0.5]
    assert output.warnings == ()


def test_a_cut_text_that_stops_before_was_not_cut_by_its_bound() -> None:
    answer = result([[THE, WORD]], [Code.LENGTH], [-1.0])
    for stop, warnings in ((("word",), 0), (("no",), 1)):
        (output,) = assemble([admission(stop=stop)], [answer], TOKENIZER)
        assert len(output.warnings) == warnings


# --- scores -----------------------------------------------------------------------------------------------------------


def scored(answer: ScoreResult, details: bool = False, **row: Any) -> ScoredTarget:
    admission = Admission(make_scoring_row(3, target_ids=[THE, WORD, EOS], **row), 0, ("a warning",))
    (target,) = assemble_scores([admission], [answer], TOKENIZER, details=details)
    return target


SCORES = ScoreResult([-0.5, -1.0, -0.25], np.array([0, 3, 0], np.int32), 3)


def test_a_score_is_the_sum_over_the_target_its_end_included() -> None:
    target = scored(SCORES)
    assert (target.score, target.target_tokens, target.input_tokens) == (-1.75, 3, 3)
    assert target.perplexity == pytest.approx(math.exp(1.75 / 3))
    assert target.warnings == ("a warning",)
    assert (target.tokens, target.input_pieces, target.attention) == (None, None, None)


def test_details_tell_of_every_token_of_a_target() -> None:
    assert scored(SCORES, details=True).tokens == (
        TargetToken(THE, "▁the", -0.5, 0),
        TargetToken(WORD, "▁word", -1.0, 3),
        TargetToken(EOS, "</s>", -0.25, 0),
    )


def test_attention_is_told_with_the_pieces_that_it_is_paid_to() -> None:
    attention = np.array([[0.1, 0.2, 0.7], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    target = scored(SCORES._replace(attention=attention), align=True)
    assert target.attention == ((0.1, 0.2, 0.7), (1.0, 0.0, 0.0), (0.333333,) * 3)
    assert target.input_pieces == (*TOKENIZER.pieces([260, 261]), "</s>")


@pytest.mark.parametrize(
    ("answer", "row"),
    [
        (SCORES._replace(token_log_probs=[-0.5, -math.inf, -0.25]), {}),
        (SCORES._replace(token_log_probs=[-0.5, math.nan, -0.25]), {}),
        (SCORES._replace(token_log_probs=[-0.5, -0.25]), {}),
        (SCORES._replace(source_tokens=4), {}),
        (SCORES, {"align": True}),
        (SCORES._replace(attention=np.full((3, 3), math.nan, np.float32)), {"align": True}),
    ],
    ids=["infinite", "nan", "other target", "other source", "no attention", "nan attention"],
)
def test_scores_that_make_no_sense_are_the_models_fault(answer: ScoreResult, row: dict[str, Any]) -> None:
    with pytest.raises(BackendFailed):
        scored(answer, **row)


def test_the_least_likely_text_still_has_a_finite_perplexity() -> None:
    (output,) = assemble([admission()], [result([[THE]], [Code.LENGTH], [-1e6])], TOKENIZER)
    assert math.isfinite(output.hypotheses[0].perplexity)


@pytest.mark.parametrize(
    "answer",
    [
        result([[THE, EOS]], [Code.NONE], [-1.0]),
        result([[THE, EOS]], [9], [-1.0]),
        result([[THE, EOS]], [Code.EOS_TOKEN], [math.nan]),
        result([[THE, EOS]], [Code.EOS_TOKEN], [-math.inf]),
        result([[THE, EOS]], [Code.EOS_TOKEN], [-1.0], lengths=[3]),
        result([[10**6, EOS]], [Code.EOS_TOKEN], [-1.0]),
    ],
    ids=["no hypothesis", "unknown reason", "nan", "infinite", "too long", "unknown token"],
)
def test_an_answer_that_makes_no_sense_is_the_models_fault(answer: RowResult) -> None:
    with pytest.raises(BackendFailed):
        assemble([admission()], [answer], TOKENIZER)
