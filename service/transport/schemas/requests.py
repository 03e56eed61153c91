"""Bodies of requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.generation import LABEL, SEEDS, VERSIONS
from service.transport.schemas.closed import Closed
from service.validation.options import LONGEST_STOP, MOST_STOPS

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
Texts = Text | Annotated[list[Text], Field(min_length=1)]
Name = Annotated[
    str, Field(min_length=1, max_length=256, description="Name of a model; not needed where only one is served.")
]
Version = Annotated[
    Annotated[int, Field(ge=VERSIONS[0], le=VERSIONS[-1])] | Annotated[str, Field(pattern=f"^{LABEL.pattern}$")],
    Field(description="Number of a version, or a label; by default the label `default`, or the newest that is ready."),
]


Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


class GenerateParameters(Closed):
    """How to decode; the defaults are greedy search. A model's own limits are told by `GET /v1/models/{name}`."""

    beam_size: int = Field(1, ge=1, description="Hypotheses kept alive at each step; 1 is greedy search.")
    num_hypotheses: int = Field(
        1, ge=1, description="Hypotheses returned for each text; at most `beam_size`, or so many samples."
    )
    max_new_tokens: int = Field(
        default_factory=int, ge=1, description="Upper bound of new tokens; by default the model's own."
    )
    min_new_tokens: int = Field(0, ge=0, description="The sentence may not end before so many new tokens.")
    length_penalty: float = Field(
        1.0, ge=0.0, le=10.0, description="Hypotheses are ranked by log-probability / length ** length_penalty."
    )
    prefix: str = Field("", description="Text that every hypothesis begins with.")
    do_sample: bool = Field(
        False, description="Draw every token from the model's distribution; excludes a `beam_size` above 1."
    )
    temperature: float = Field(1.0, gt=0.0, le=100.0, description="Sampling: logits are divided by it.")
    top_k: int = Field(0, ge=0, le=2**31 - 1, description="Sampling: among the k likeliest tokens only; 0: among all.")
    top_p: float = Field(
        1.0, gt=0.0, le=1.0, description="Sampling: among the fewest likeliest tokens with at least this probability."
    )
    seed: int = Field(
        default_factory=int,
        ge=0,
        le=SEEDS - 1,
        description="Sampling: the first text's noise, 1 more for each further one; by default drawn, and answered.",
    )
    repetition_penalty: float = Field(
        1.0, ge=0.01, le=100.0, description="Above 1, tokens that the text has already become less likely."
    )
    no_repeat_ngram_size: int = Field(0, ge=0, le=8, description="So many tokens in a row never come twice; 0: may.")
    disable_unk: bool = Field(False, description="Never generate the unknown token.")
    stop: list[Stop] = Field(
        [], max_length=MOST_STOPS, description="The text ends before the first of these strings behind the prefix."
    )
    truncate: bool = Field(False, description="Cut a text that is too long, with a warning, instead of refusing it.")
    details: bool = Field(False, description="Return the tokens of each hypothesis with their log-probabilities.")


class GenerateRequest(Closed):
    """Texts to generate from."""

    inputs: Texts = Field(description="One text, or several.")
    model: Name | None = None
    version: Version | None = None
    parameters: GenerateParameters | None = None
    stream: Literal[False] = Field(False, description="Only false is supported.")


class ScoreParameters(Closed):
    """What to tell besides the scores."""

    truncate: bool = Field(False, description="Cut a text that is too long, with a warning, instead of refusing it.")
    details: bool = Field(False, description="Return the tokens of each target with log-probabilities and ranks.")
    align: bool = Field(False, description="Return the attention of each token of a target to each of its text.")


class ScoreRequest(Closed):
    """Texts, and for each a target whose probability is asked for."""

    inputs: Texts = Field(description="One text, or several.")
    targets: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="As many as `inputs`; an empty one stands for ending at once."
    )
    model: Name | None = None
    version: Version | None = None
    parameters: ScoreParameters | None = None


class TokenizeRequest(Closed):
    """Texts to tokenize."""

    inputs: Texts = Field(description="One text, or several.")
    model: Name | None = None
    version: Version | None = None


TokenId = Annotated[int, Field(ge=0)]
Ids = Annotated[list[TokenId], Field(min_length=1)]


class DetokenizeRequest(Closed):
    """Token ids to turn back into texts."""

    ids: Ids | Annotated[list[list[TokenId]], Field(min_length=1)] = Field(
        description="The ids of one text, or of several."
    )
    model: Name | None = None
    version: Version | None = None
