"""Bodies of answers, but those that tell of models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.transport.schemas.closed import Closed

FinishReasonName = Literal["eos_token", "length", "stop_sequence"]


class Token(Closed):
    """One new token."""

    id: int
    piece: str = Field(description="Its spelling; `▁` marks the start of a word.")
    log_prob: float


class Hypothesis(Closed):
    """One generated text. Counts and scores speak of new tokens: the end of sentence included, a prefix not.

    Of one that `stop` cut they speak of the fewest first tokens that hold the stop string.
    """

    text: str
    finish_reason: FinishReasonName
    generated_tokens: int
    score: float = Field(description="Log-probability of the new tokens, natural logarithm.")
    normalized_score: float = Field(description="What hypotheses are ranked by, before `stop` cuts.")
    perplexity: float = Field(description="exp(-score / generated_tokens).")
    tokens: list[Token] | None = Field(None, description="Only with `details`.")


class Output(Closed):
    """The answer to one text: its best hypothesis, and all of them."""

    generated_text: str
    finish_reason: FinishReasonName
    input_tokens: int = Field(description="Tokens that the model read, its framing included.")
    generated_tokens: int
    score: float
    perplexity: float
    hypotheses: list[Hypothesis] = Field(min_length=1, description="`num_hypotheses` of them, best first.")
    warnings: list[str]
    seed: int | None = Field(None, description="Of the noise, where it was sampled: with it the text comes again.")


class GenerateResponse(Closed):
    """An output for each text, in the order of `inputs`."""

    id: str = Field(description="The request's id, as in `X-Request-Id`.")
    model_name: str
    model_version: int
    outputs: list[Output]


class TargetToken(Closed):
    """One token of a target."""

    id: int
    piece: str = Field(description="Its spelling; `▁` marks the start of a word.")
    log_prob: float
    rank: int = Field(ge=0, description="How many tokens the model finds likelier.")


class ScoredTarget(Closed):
    """What the model says of one target, its end of sentence included."""

    score: float = Field(description="Log-probability of the target given its text, natural logarithm.")
    perplexity: float = Field(description="exp(-score / target_tokens).")
    input_tokens: int = Field(description="Tokens that the model read, its framing included.")
    target_tokens: int
    tokens: list[TargetToken] | None = Field(None, description="Only with `details`.")
    input_pieces: list[str] | None = Field(None, description="Only with `align`: `input_tokens` of them.")
    alignment: list[list[float]] | None = Field(
        None, description="Only with `align`: attention of each token of the target to each of `input_pieces`."
    )
    warnings: list[str]


class ScoreResponse(Closed):
    """An output for each target, in the order of `targets`."""

    id: str = Field(description="The request's id, as in `X-Request-Id`.")
    model_name: str
    model_version: int
    outputs: list[ScoredTarget]


class Tokens(Closed):
    """Ids and pieces of one text, equally many."""

    ids: list[int]
    pieces: list[str]


class TokenizeResponse(Closed):
    """Tokens of each text, in the order of `inputs`, without what the model frames them with."""

    model_name: str
    model_version: int
    outputs: list[Tokens]


class DetokenizeResponse(Closed):
    """The texts, in the order of `ids`."""

    model_name: str
    model_version: int
    texts: list[str]


class Status(Closed):
    """The answer of a probe."""

    status: Literal["ok", "ready"]


class Error(Closed):
    """Why there is no answer."""

    error: str = Field(description="What is wrong, and what would be right.")
    error_type: str = Field(description="One for each kind of error.")
