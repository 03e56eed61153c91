"""Answers: what the model gave for each row becomes texts and scores, in the order of the inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from model_export import contract
from service.batching import AdmittedRow, RowResult, ScoreResult, ScoringRow
from service.batching.rows import Ids
from service.engine import row_warnings
from service.engine.admission import Admission
from service.engine.stop import cut_at_stop
from service.errors import BackendFailed
from service.generation import FinishReason, Hypothesis, RowOutput, ScoredTarget, TargetToken, Token
from service.tokenization import Tokenizer

_FINISH_REASONS: Final = {
    int(contract.FinishReason.EOS_TOKEN): FinishReason.EOS_TOKEN,
    int(contract.FinishReason.LENGTH): FinishReason.LENGTH,
}
_LARGEST_EXPONENT: Final = 700.0  # exp of more is infinite, for which JSON has no number
_ATTENTION_DIGITS: Final = 6


def assemble(
    admissions: Sequence[Admission[AdmittedRow]], results: Sequence[RowResult], tokenizer: Tokenizer
) -> tuple[RowOutput, ...]:
    """One output for each row.

    Raises:
        BackendFailed: a row without hypothesis, ids that the tokenizer does not have, scores that are not numbers.
    """
    return tuple(_output(admission, result, tokenizer) for admission, result in zip(admissions, results, strict=True))


def assemble_scores(
    admissions: Sequence[Admission[ScoringRow]],
    results: Sequence[ScoreResult],
    tokenizer: Tokenizer,
    *,
    details: bool,
) -> tuple[ScoredTarget, ...]:
    """What the model says of each row's target; ``details``: of each of its tokens too.

    Raises:
        BackendFailed: scores that are not numbers, or of other tokens than were asked for.
    """
    return tuple(
        _scored(admission, result, tokenizer, details) for admission, result in zip(admissions, results, strict=True)
    )


def _output(admission: Admission[AdmittedRow], result: RowResult, tokenizer: Tokenizer) -> RowOutput:
    row = admission.row
    try:
        hypotheses = tuple(_hypotheses(row, result, tokenizer))
    except IndexError as error:
        raise BackendFailed(f"the model answered with a token that its tokenizer does not have: {error}") from error
    if not hypotheses:
        raise BackendFailed("the model gave no hypothesis for a text")
    return RowOutput(
        result.source_tokens,
        hypotheses,
        (*admission.warnings, *row_warnings.cut([each.finish_reason for each in hypotheses], admission.bound)),
        row.seed if row.options.do_sample else None,
    )


def _hypotheses(row: AdmittedRow, result: RowResult, tokenizer: Tokenizer) -> Iterator[Hypothesis]:
    by_place = zip(
        result.ids, result.lengths, result.finish_reasons, result.scores, result.normalized_scores, strict=True
    )
    for place, (ids, length, code, score, normalized_score) in enumerate(by_place):
        if code == contract.FinishReason.NONE:
            continue  # the search found fewer than were asked for
        numbers_are_sound = math.isfinite(score) and math.isfinite(normalized_score)
        if code not in _FINISH_REASONS or not 1 <= length <= len(ids) or not numbers_are_sound:
            raise BackendFailed(f"the model answered with finish reason {code}, {length} tokens and score {score}")
        ended = _Ended(ids[:length], _FINISH_REASONS[code], score)
        if result.sentences is None:
            (text,) = tokenizer.decode([[*row.prefix_ids, *ended.text_ids]])
        else:
            text = result.sentences[place].decode(errors="replace")
        stop = row.options.stop
        if stop and (cut := cut_at_stop(text, row.prefix_ids, ended.text_ids, stop, tokenizer)):
            score_of_cut = math.fsum(_log_probs(result, place, cut.tokens))
            text, ended = cut.text, _Ended(ids[: cut.tokens], FinishReason.STOP_SEQUENCE, score_of_cut)
        yield Hypothesis(
            text=text,
            finish_reason=ended.reason,
            generated_tokens=len(ended.ids),
            score=ended.score,
            normalized_score=normalized_score,  # of a cut text too: what it was ranked by
            perplexity=_perplexity(ended.score, len(ended.ids)),
            tokens=_tokens(ended.ids, _log_probs(result, place, len(ended.ids)), tokenizer)
            if row.options.details
            else None,
        )


class _Ended(NamedTuple):
    """New tokens, why there are no more, and the sum of their log-probabilities."""

    ids: Ids
    reason: FinishReason
    score: float

    @property
    def text_ids(self) -> Ids:
        return self.ids[:-1] if self.reason is FinishReason.EOS_TOKEN else self.ids


def _tokens(ids: Ids, log_probs: Sequence[float], tokenizer: Tokenizer) -> tuple[Token, ...]:
    return tuple(map(Token, ids, tokenizer.pieces(ids), log_probs))


def _log_probs(result: RowResult, place: int, tokens: int) -> list[float]:
    """Of the first tokens of a hypothesis."""
    log_probs: list[float] = result.token_log_probs[place, :tokens].tolist()
    if not all(map(math.isfinite, log_probs)):
        raise BackendFailed("the model answered with log-probabilities that are no numbers")
    return log_probs


def _scored(admission: Admission[ScoringRow], result: ScoreResult, tokenizer: Tokenizer, details: bool) -> ScoredTarget:
    row, log_probs = admission.row, result.token_log_probs
    score = math.fsum(log_probs)
    if not math.isfinite(score):
        raise BackendFailed(f"the model answered with score {score}")
    lengths = len(log_probs), result.source_tokens
    if lengths != (len(row.target_ids), len(row.source_ids)):
        raise BackendFailed(
            f"the model scored {lengths[0]} tokens given {lengths[1]}, where {len(row.target_ids)} given "
            f"{len(row.source_ids)} were expected: its graph tokenizes otherwise than the gateway"
        )
    scored = ScoredTarget(
        result.source_tokens, len(log_probs), score, _perplexity(score, len(log_probs)), warnings=admission.warnings
    )
    if details:
        ids, ranks = row.target_ids, result.token_ranks.tolist()
        scored = replace(scored, tokens=tuple(map(TargetToken, ids, tokenizer.pieces(ids), log_probs, ranks)))
    if row.align:
        if result.attention is None or not np.isfinite(result.attention).all():
            raise BackendFailed("the model answered without the attention that it was asked for")
        rounded = result.attention.astype(np.float64).round(_ATTENTION_DIGITS).tolist()
        pieces = tuple(tokenizer.pieces(row.source_ids))
        scored = replace(scored, input_pieces=pieces, attention=tuple(map(tuple, rounded)))
    return scored


def _perplexity(score: float, tokens: int) -> float:
    return math.exp(min(-score / tokens, _LARGEST_EXPONENT))
