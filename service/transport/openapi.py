"""The OpenAPI document: every path, parameter, header, answer and error of REST, with examples that run."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from service.errors import (
    ERROR_TABLE,
    BackendFailed,
    BackendUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    RequestTooLarge,
    ServiceError,
)
from service.transport import schemas
from service.transport.schemas import component_schemas, reference

PATH: Final = "/openapi.json"

_REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "Echoed in the answer and named in the logs; at most 128 of `A-Za-z0-9._:@/+=-`, else one is made.",
    "schema": {"type": "string"},
}
_TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "Time for the answer in milliseconds; the server has a default and a maximum.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 9_999_999_999},
    "example": 10000,
}
_MODEL_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}

_BODY_ERRORS: Final = (InvalidRequest, ModelNotFound, RequestTooLarge, BackendUnavailable)
_GENERATE_EXAMPLES: Final[Mapping[str, Any]] = {
    "one text": {"inputs": "I am tired."},
    "several texts, three hypotheses of each": {
        "inputs": ["Be nice.", "Get out!"],
        "parameters": {"beam_size": 4, "num_hypotheses": 3},
    },
    "tokens with their log-probabilities": {
        "inputs": "Drop it!",
        "parameters": {"max_new_tokens": 16, "details": True},
    },
    "three samples": {
        "inputs": "Be nice.",
        "parameters": {"do_sample": True, "top_p": 0.9, "seed": 7, "num_hypotheses": 3},
    },
    "up to the first comma": {"inputs": "Well, I am tired.", "parameters": {"stop": [","]}},
}
_SCORE_EXAMPLES: Final[Mapping[str, Any]] = {
    "one translation": {"inputs": "I am tired.", "targets": "Je suis fatigué."},
    "two, by token": {
        "inputs": ["Be nice.", "Be nice."],
        "targets": ["Sois gentil.", "Soyez gentils."],
        "parameters": {"details": True},
    },
    "with the attention": {"inputs": "Get out!", "targets": "Sortez !", "parameters": {"align": True}},
}


@functools.cache
def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Malgil",
            "version": "1",
            "description": "Sequence-to-sequence text models. Every answer carries `X-Request-Id` and, in "
            "milliseconds, `x-total-time`; every error is `{error, error_type}`.",
        },
        "paths": {
            "/v1/generate": {
                "post": _run(
                    "generate",
                    "Generate text from text",
                    schemas.GenerateResponse,
                    schemas.GenerateRequest,
                    _GENERATE_EXAMPLES,
                )
            },
            "/v1/score": {
                "post": _run(
                    "score",
                    "How likely texts are, given others",
                    schemas.ScoreResponse,
                    schemas.ScoreRequest,
                    _SCORE_EXAMPLES,
                )
            },
            "/v1/tokenize": {
                "post": _operation(
                    "tokenize",
                    "Token ids and pieces of texts",
                    schemas.TokenizeResponse,
                    _BODY_ERRORS,
                    body=schemas.TokenizeRequest,
                    examples={"two texts": {"inputs": ["Be nice.", "Get out!"]}},
                )
            },
            "/v1/detokenize": {
                "post": _operation(
                    "detokenize",
                    "Texts of token ids",
                    schemas.DetokenizeResponse,
                    _BODY_ERRORS,
                    body=schemas.DetokenizeRequest,
                    examples={"one text": {"ids": [260, 261, 262]}},
                )
            },
            "/v1/models": {"get": _operation("models", "Models and their versions", schemas.ModelList)},
            "/v1/models/{name}": {
                "get": _operation(
                    "model", "One model and its versions", schemas.ModelInfo, (ModelNotFound,), parameters=[_MODEL_NAME]
                )
            },
            "/livez": {"get": _operation("livez", "Whether the process lives", schemas.Status)},
            "/readyz": {
                "get": _operation(
                    "readyz", "Whether every model has a version that answers", schemas.Status, (BackendUnavailable,)
                )
            },
            "/metrics": {"get": _metrics()},
        },
        "components": {"schemas": component_schemas()},
    }


def _run(
    name: str, summary: str, answer: type[BaseModel], body: type[BaseModel], examples: Mapping[str, Any]
) -> dict[str, Any]:
    """An operation that runs the model."""
    operation = _operation(
        name,
        summary,
        answer,
        (*_BODY_ERRORS, Overloaded, BackendFailed, DeadlineExceeded),
        body=body,
        examples=examples,
        parameters=[_TIMEOUT],
    )
    operation["responses"]["200"]["headers"] |= {
        "x-queue-time": _header("Longest wait of a text for a slot, in milliseconds."),
        "x-inference-time": _header("Longest run of a text's batch, in milliseconds."),
    }
    return operation


def _operation(
    name: str,
    summary: str,
    answer: type[BaseModel],
    errors: tuple[type[ServiceError], ...] = (),
    *,
    body: type[BaseModel] | None = None,
    examples: Mapping[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """One operation. Errors that share a status share an entry."""
    responses: dict[str, Any] = {"200": _response(answer.__doc__ or summary, answer)}
    for error in errors:
        status = str(ERROR_TABLE[error].http_status)
        responses[status] = _response(error.__doc__ or error.__name__, schemas.Error)
        if error in (Overloaded, BackendUnavailable):
            responses[status]["headers"]["retry-after"] = {
                "description": "Seconds after which to try again; missing where waiting changes nothing.",
                "required": error is Overloaded,
                "schema": {"type": "integer", "minimum": 1},
            }
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "parameters": [_REQUEST_ID, *(parameters or [])],
        "responses": responses,
    }
    if body is not None:
        content = {
            "schema": reference(body),
            "examples": {key: {"value": value} for key, value in (examples or {}).items()},
        }
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    return operation


def _metrics() -> dict[str, Any]:
    operation = _operation("metrics", "Metrics in Prometheus' text format", schemas.Status)
    operation["responses"]["200"] = {
        "description": "The metrics.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    return operation


def _response(description: str, model: type[BaseModel]) -> dict[str, Any]:
    return {
        "description": " ".join(description.split()),
        "headers": {
            "x-request-id": {"required": True, "schema": {"type": "string"}},
            "x-total-time": _header("Time in this server, in milliseconds."),
        },
        "content": {"application/json": {"schema": reference(model)}},
    }


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": {"type": "number", "minimum": 0}}
