"""What travels over REST, as the OpenAPI document tells it.

The models describe; they are not run on requests, which ``service.validation`` alone judges, nor on answers, which
``rest_convert`` writes. Tests hold all three to each other.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from service.generation import LABEL, VERSIONS

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
Texts = Text | Annotated[list[Text], Field(min_length=1)]
Name = Annotated[
    str, Field(min_length=1, max_length=256, description="Name of a model; not needed where only one is served.")
]
Version = Annotated[
    Annotated[int, Field(ge=VERSIONS[0], le=VERSIONS[-1])] | Annotated[str, Field(pattern=f"^{LABEL.pattern}$")],
    Field(description="Number of a version, or a label; by default the label `default`, or the newest that is ready."),
]


class _Closed(BaseModel):
    """Nothing but the named fields."""

    model_config = ConfigDict(extra="forbid")


# --- requests ---------------------------------------------------------------------------------------------------------


def _only(neutral: Any) -> Any:
    """An option that today's models do not act on: accepted at the value that changes nothing."""
    return Field(neutral, description="Not supported yet.", json_schema_extra={"const": neutral})


class GenerateParameters(_Closed):
    """How to decode; the defaults are greedy search. A model's own limits are told by `GET /v1/models/{name}`."""

    beam_size: int = Field(1, ge=1, description="Hypotheses kept alive at each step; 1 is greedy search.")
    num_hypotheses: int = Field(1, ge=1, description="Hypotheses returned for each text; at most `beam_size`.")
    max_new_tokens: int = Field(
        default_factory=int, ge=1, description="Upper bound of new tokens; by default the model's own."
    )
    min_new_tokens: int = Field(0, ge=0, description="The sentence may not end before so many new tokens.")
    length_penalty: float = Field(
        1.0, ge=0.0, le=10.0, description="Hypotheses are ranked by log-probability / length ** length_penalty."
    )
    prefix: str = Field("", description="Text that every hypothesis begins with.")
    truncate: bool = Field(False, description="Cut a text that is too long, with a warning, instead of refusing it.")
    details: bool = Field(False, description="Return the tokens of each hypothesis with their log-probabilities.")
    do_sample: bool = _only(False)
    temperature: float = _only(1.0)
    top_k: int = _only(0)
    top_p: float = _only(1.0)
    seed: int = _only(0)
    repetition_penalty: float = _only(1.0)
    no_repeat_ngram_size: int = _only(0)
    disable_unk: bool = _only(False)
    stop: list[str] = _only([])


class GenerateRequest(_Closed):
    """Texts to generate from."""

    inputs: Texts = Field(description="One text, or several.")
    model: Name | None = None
    version: Version | None = None
    parameters: GenerateParameters | None = None
    stream: Literal[False] = Field(False, description="Only false is supported.")


class TokenizeRequest(_Closed):
    """Texts to tokenize."""

    inputs: Texts = Field(description="One text, or several.")
    model: Name | None = None
    version: Version | None = None


TokenId = Annotated[int, Field(ge=0)]
Ids = Annotated[list[TokenId], Field(min_length=1)]


class DetokenizeRequest(_Closed):
    """Token ids to turn back into texts."""

    ids: Ids | Annotated[list[list[TokenId]], Field(min_length=1)] = Field(
        description="The ids of one text, or of several."
    )
    model: Name | None = None
    version: Version | None = None


# --- answers ----------------------------------------------------------------------------------------------------------


class Token(_Closed):
    """One new token."""

    id: int
    piece: str = Field(description="Its spelling; `▁` marks the start of a word.")
    log_prob: float


class Hypothesis(_Closed):
    """One generated text. Counts and scores speak of new tokens: the end of sentence included, a prefix not."""

    text: str
    finish_reason: Literal["eos_token", "length"]
    generated_tokens: int
    score: float = Field(description="Log-probability of the new tokens, natural logarithm.")
    normalized_score: float = Field(description="What hypotheses are ranked by.")
    perplexity: float = Field(description="exp(-score / generated_tokens).")
    tokens: list[Token] | None = Field(None, description="Only with `details`.")


class Output(_Closed):
    """The answer to one text: its best hypothesis, and all of them."""

    generated_text: str
    finish_reason: Literal["eos_token", "length"]
    input_tokens: int = Field(description="Tokens that the model read, its framing included.")
    generated_tokens: int
    score: float
    perplexity: float
    hypotheses: list[Hypothesis] = Field(min_length=1, description="`num_hypotheses` of them, best first.")
    warnings: list[str]


class GenerateResponse(_Closed):
    """An output for each text, in the order of `inputs`."""

    id: str = Field(description="The request's id, as in `X-Request-Id`.")
    model_name: str
    model_version: int
    outputs: list[Output]


class Tokens(_Closed):
    """Ids and pieces of one text, equally many."""

    ids: list[int]
    pieces: list[str]


class TokenizeResponse(_Closed):
    """Tokens of each text, in the order of `inputs`, without what the model frames them with."""

    model_name: str
    model_version: int
    outputs: list[Tokens]


class DetokenizeResponse(_Closed):
    """The texts, in the order of `ids`."""

    model_name: str
    model_version: int
    texts: list[str]


class ModelVersionInfo(_Closed):
    """One version of a model; what its manifest says is there once it is ready."""

    version: int
    state: Literal["loading", "ready", "refused"]
    reason: str | None = Field(None, description="Why it was refused.")
    replicas: dict[str, str] | None = Field(None, description="What each replica of the model server says of it.")
    architecture: str | None = None
    parameter_count: int | None = None
    dtype: str | None = None
    limits: dict[str, int] | None = None
    tokenizer: dict[str, Any] | None = None
    supported_options: list[str] | None = None
    provenance: dict[str, Any] | None = Field(None, description="Data, steps and metrics, as the trainer told them.")


class WeightedVersion(_Closed):
    """One of the versions that a label stands for."""

    version: int
    weight: float = Field(ge=0, description="Its share is this of the sum.")


class RefusedLabel(_Closed):
    """What the file of labels says and cannot be."""

    versions: list[WeightedVersion]
    reason: str


class LabelInfo(_Closed):
    """A label, and the versions that answer requests which name it."""

    label: str
    versions: list[WeightedVersion] = Field(description="In force now; none where nothing that it stands for is ready.")
    refused: RefusedLabel | None = Field(None, description="What is to be in force, and why it is not yet.")


class ModelInfo(_Closed):
    """One model."""

    name: str
    version: int | None = Field(
        description="The version that answers requests which name none; of several the likeliest."
    )
    versions: list[ModelVersionInfo] = Field(description="Newest first.")
    labels: list[LabelInfo]


class ModelList(_Closed):
    """Every model, by name."""

    models: list[ModelInfo]
    labels_error: str | None = Field(
        None, description="What is wrong with the file of labels now; those read before are in force."
    )


class Status(_Closed):
    """The answer of a probe."""

    status: Literal["ok", "ready"]


class Error(_Closed):
    """Why there is no answer."""

    error: str = Field(description="What is wrong, and what would be right.")
    error_type: str = Field(description="One for each kind of error.")


MODELS = (
    GenerateRequest,
    TokenizeRequest,
    DetokenizeRequest,
    GenerateResponse,
    TokenizeResponse,
    DetokenizeResponse,
    ModelInfo,
    ModelList,
    Status,
    Error,
)
REFERENCE = "#/components/schemas/{model}"


def reference(model: type[BaseModel]) -> dict[str, str]:
    """A JSON Schema that points at the model's own."""
    return {"$ref": REFERENCE.format(model=model.__name__)}


def component_schemas() -> dict[str, Any]:
    """JSON Schemas of everything above, for the OpenAPI document."""
    _, document = models_json_schema([(model, "validation") for model in MODELS], ref_template=REFERENCE)
    schemas: dict[str, Any] = document["$defs"]
    return schemas
