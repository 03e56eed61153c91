"""Answers: what the model gave for each row becomes texts, in the order of the inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from model_export import contract
from service.batching import RowResult
from service.engine.admission import Admission
from service.errors import BackendFailed
from service.generation import FinishReason, Hypothesis, RowOutput, Token
from service.tokenization import Tokenizer

_FINISH_REASONS: Final = {
    int(contract.FinishReason.EOS_TOKEN): FinishReason.EOS_TOKEN,
    int(contract.FinishReason.LENGTH): FinishReason.LENGTH,
}
_LARGEST_EXPONENT: Final = 700.0  # exp of more is infinite, for which JSON has no number


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


def assemble(
    admissions: Sequence[Admission], results: Sequence[RowResult], tokenizer: Tokenizer
) -> tuple[RowOutput, ...]:
    """One output for each row.

    Raises:
        BackendFailed: a row without hypothesis, ids that the tokenizer does not have, scores that are not numbers.
    """
    hypotheses: list[list[Hypothesis]] = [[] for _ in admissions]
    try:
        for row, (admission, result) in enumerate(zip(admissions, results, strict=True)):
            prefix, details = admission.row.prefix_ids.tolist(), admission.row.options.details
            for place in _places(result):
                text = place.text
                if text is None:
                    (text,) = tokenizer.decode([prefix + place.text_ids])
                hypotheses[row].append(_hypothesis(place, text, tokenizer if details else None))
    except IndexError as error:
        raise BackendFailed(f"the model answered with a token that its tokenizer does not have: {error}") from error
    if not all(hypotheses):
        raise BackendFailed("the model gave no hypothesis for a text")
    return tuple(
        RowOutput(result.source_tokens, tuple(of_row), _warnings(admission))
        for admission, result, of_row in zip(admissions, results, hypotheses, strict=True)
    )


def _places(result: RowResult) -> Iterator[_Place]:
    all_ids, all_log_probs = result.ids.tolist(), result.token_log_probs.tolist()
    columns = (result.lengths, result.finish_reasons, result.scores, result.normalized_scores)
    for place, (length, code, score, normalized_score) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        if code == contract.FinishReason.NONE:
            continue  # the search found fewer than were asked for
        if code not in _FINISH_REASONS or not 1 <= length <= len(all_ids[place]) or not math.isfinite(score):
            raise BackendFailed(f"the model answered with finish reason {code}, {length} tokens and score {score}")
        yield _Place(
            all_ids[place][:length],
            all_log_probs[place][:length],
            _FINISH_REASONS[code],
            score,
            normalized_score,
            None if result.sentences is None else result.sentences[place].decode(errors="replace"),
        )


def _hypothesis(place: _Place, text: str, tokenizer: Tokenizer | None) -> Hypothesis:
    """``tokenizer`` is given where the request wants details."""
    tokens = None
    if tokenizer is not None:
        pieces = tokenizer.pieces(place.ids)
        tokens = tuple(map(Token, place.ids, pieces, place.log_probs))
    return Hypothesis(
        text=text,
        finish_reason=place.reason,
        generated_tokens=len(place.ids),
        score=place.score,
        normalized_score=place.normalized_score,
        perplexity=math.exp(min(-place.score / len(place.ids), _LARGEST_EXPONENT)),
        tokens=tokens,
    )


def _warnings(admission: Admission) -> tuple[str, ...]:
    if not admission.truncated_tokens:
        return ()
    return (f"input truncated by {admission.truncated_tokens} tokens",)
