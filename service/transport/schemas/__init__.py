"""What travels over REST, as the OpenAPI document tells it.

The models describe; they are not run on requests, which ``service.validation`` alone judges, nor on answers, which
``rest_convert`` writes. Tests hold all three to each other.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.transport.schemas.answers import (
    DetokenizeResponse,
    Error,
    GenerateResponse,
    Hypothesis,
    Output,
    ScoredTarget,
    ScoreResponse,
    Status,
    TargetToken,
    Token,
    TokenizeResponse,
    Tokens,
)
from service.transport.schemas.models import (
    LabelInfo,
    ModelInfo,
    ModelList,
    ModelVersionInfo,
    RefusedLabel,
    WeightedVersion,
)
from service.transport.schemas.requests import (
    DetokenizeRequest,
    GenerateParameters,
    GenerateRequest,
    ScoreParameters,
    ScoreRequest,
    TokenizeRequest,
)

__all__ = [
    "DetokenizeRequest",
    "DetokenizeResponse",
    "Error",
    "GenerateParameters",
    "GenerateRequest",
    "GenerateResponse",
    "Hypothesis",
    "LabelInfo",
    "ModelInfo",
    "ModelList",
    "ModelVersionInfo",
    "Output",
    "RefusedLabel",
    "ScoreParameters",
    "ScoreRequest",
    "ScoreResponse",
    "ScoredTarget",
    "Status",
    "TargetToken",
    "Token",
    "TokenizeRequest",
    "TokenizeResponse",
    "Tokens",
    "WeightedVersion",
    "component_schemas",
    "reference",
]

MODELS = (
    GenerateRequest,
    ScoreRequest,
    TokenizeRequest,
    DetokenizeRequest,
    GenerateResponse,
    ScoreResponse,
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
