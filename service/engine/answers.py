"""Answers: what the model gave for each row becomes texts and scores, in the order of the inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from model_export import contract
from service.batching import AdmittedRow, RowResult, ScoreResult, ScoringRow
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


class _Place(NamedTuple):
    """One hypothesis as numbers, and as text where the graph made it."""

    ids: list[int]
    log_probs: list[float]
    reason: FinishReason
    score: float
    normalized_score: float
    text: str | None

    @property
    def text_ids(self) -> list[int]:
        return self.ids[:-1] if self.reason is FinishReason.EOS_TOKEN else self.ids

    def cut(self, tokens: int) -> _Place:
        """Its first ``tokens``, which a stop string ends; ``normalized_score`` goes on to say what it was ranked by."""
        log_probs = self.log_probs[:tokens]
        return self._replace(
            ids=self.ids[:tokens],
            log_probs=log_probs,
            reason=FinishReason.STOP_SEQUENCE,
            score=math.fsum(log_probs),
        )


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
        hypotheses = tuple(_hypothesis(place, row, tokenizer) for place in _places(result))
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


def _places(result: RowResult) -> Iterator[_Place]:
    all_ids, all_log_probs = result.ids.tolist(), result.token_log_probs.tolist()
    columns = (result.lengths, result.finish_reasons, result.scores, result.normalized_scores)
    for place, (length, code, score, normalized_score) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        if code == contract.FinishReason.NONE:
            continue  # the search found fewer than were asked for
        numbers_are_sound = math.isfinite(score) and math.isfinite(normalized_score)
        if code not in _FINISH_REASONS or not 1 <= length <= len(all_ids[place]) or not numbers_are_sound:
            raise BackendFailed(f"the model answered with finish reason {code}, {length} tokens and score {score}")
        yield _Place(
            all_ids[place][:length],
            all_log_probs[place][:length],
            _FINISH_REASONS[code],
            score,
            normalized_score,
            None if result.sentences is None else result.sentences[place].decode(errors="replace"),
        )


def _hypothesis(place: _Place, row: AdmittedRow, tokenizer: Tokenizer) -> Hypothesis:
    options, prefix = row.options, row.prefix_ids.tolist()
    text = place.text
    if text is None:
        (text,) = tokenizer.decode([prefix + place.text_ids])
    if options.stop and (cut := cut_at_stop(text, prefix, place.text_ids, options.stop, tokenizer)):
        text = cut.text
        place = place.cut(cut.tokens)
    tokens = None
    if options.details:
        tokens = tuple(map(Token, place.ids, tokenizer.pieces(place.ids), place.log_probs))
    return Hypothesis(
        text=text,
        finish_reason=place.reason,
        generated_tokens=len(place.ids),
        score=place.score,
        normalized_score=place.normalized_score,
        perplexity=_perplexity(place.score, len(place.ids)),
        tokens=tokens,
    )


def _scored(admission: Admission[ScoringRow], result: ScoreResult, tokenizer: Tokenizer, details: bool) -> ScoredTarget:
    row, log_probs = admission.row, result.token_log_probs.tolist()
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
        ids = row.target_ids.tolist()
        ranks = result.token_ranks.tolist()
        scored = replace(scored, tokens=tuple(map(TargetToken, ids, tokenizer.pieces(ids), log_probs, ranks)))
    if row.align:
        if result.attention is None or not np.isfinite(result.attention).all():
            raise BackendFailed("the model answered without the attention that it was asked for")
        rounded = result.attention.astype(np.float64).round(_ATTENTION_DIGITS).tolist()
        pieces = tuple(tokenizer.pieces(row.source_ids.tolist()))
        scored = replace(scored, input_pieces=pieces, attention=tuple(map(tuple, rounded)))
    return scored


def _perplexity(score: float, tokens: int) -> float:
    return math.exp(min(-score / tokens, _LARGEST_EXPONENT))
