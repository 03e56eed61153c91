from __future__ import annotations

import math

import numpy as np
import pytest

from model_export.contract import FinishReason as Code
from service.backends.scripted import tiny_tokenizer
from service.batching import RowResult
from service.engine.admission import Admission
from service.engine.answers import assemble
from service.errors import BackendFailed
from service.generation import FinishReason, Token
from service.tokenization import SentencePieceTokenizer
from tests.support.rows import make_row

TOKENIZER = SentencePieceTokenizer(tiny_tokenizer())
THE, WORD = TOKENIZER.encode(["the word"])[0]
EOS = 3


def result(ids: list[list[int]], codes: list[Code], scores: list[float], lengths: list[int] | None = None) -> RowResult:
    width = max(map(len, ids))
    padded = np.array([each + [0] * (width - len(each)) for each in ids], np.int32)
    return RowResult(
        ids=padded,
        lengths=np.array(lengths or [len(each) for each in ids], np.int32),
        finish_reasons=np.array(codes, np.int32),
        scores=np.array(scores, np.float32),
        normalized_scores=np.array(scores, np.float32) / 2,
        token_log_probs=np.full(padded.shape, -0.5, np.float32),
        source_tokens=4,
    )


def admission(truncated_tokens: int = 0, **options: object) -> Admission:
    return Admission(make_row(4, **options), truncated_tokens)


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
    assert output.hypotheses[0].text == "the word"
    assert output.hypotheses[0].finish_reason is FinishReason.LENGTH


def test_texts_begin_with_the_prefix() -> None:
    row = make_row(4)
    object.__setattr__(row, "prefix_ids", np.array([THE], np.int32))
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
    sentences = np.array([b"one", "길".encode() + b"\xff"], object)
    answer = answer._replace(source_tokens=9, sentences=sentences)
    (output,) = assemble([admission(details=True)], [answer], TOKENIZER)
    assert [each.text for each in output.hypotheses] == ["one", "길\ufffd"]
    assert output.hypotheses[0].tokens == (Token(THE, "▁the", -0.5), Token(EOS, "</s>", -0.5))
    assert output.input_tokens == 9


def test_an_unknown_token_is_the_models_fault_also_beside_a_sentence() -> None:
    answer = result([[10**6, EOS]], [Code.EOS_TOKEN], [-1.0])._replace(sentences=np.array([b"one"], object))
    with pytest.raises(BackendFailed, match="a token that its tokenizer does not have"):
        assemble([admission(details=True)], [answer], TOKENIZER)


def test_truncation_is_told() -> None:
    (output,) = assemble([admission(7)], [result([[THE, EOS]], [Code.EOS_TOKEN], [-1.0])], TOKENIZER)
    assert output.warnings == ("input truncated by 7 tokens",)


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
