"""Bodies and headers -> requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from model_export.contract import Manifest
from service.backend import ModelVersion
from service.errors import InvalidRequest
from service.generation import (
    LABEL,
    VERSIONS,
    DetokenizeRequest,
    GenerationRequest,
    ScoreRequest,
    TokenizeRequest,
    VersionChoice,
)
from service.settings import Settings
from service.validation.fields import is_integer, parse_object, parse_text, shown
from service.validation.options import PARAMETERS, parse_options, refit_options

Request = TypeVar("Request", GenerationRequest, ScoreRequest, TokenizeRequest, DetokenizeRequest)
Resolve = Callable[[str | None, VersionChoice], ModelVersion]
"""``Engine.resolve``."""

LONGEST_NAME: Final = 256
SCORE_PARAMETERS: Final = ("truncate", "details", "align")
"""Names of the parameters of ``POST /v1/score``: flags, all false by default."""

_MILLISECONDS: Final = re.compile("0*([1-9][0-9]{0,9})")


def parse_generate(fields: Any, resolve: Resolve, settings: Settings) -> GenerationRequest:
    """The body of ``POST /v1/generate``.

    Raises:
        InvalidRequest: a field is wrong, or not supported by the model.
        ModelNotFound, BackendUnavailable: as ``resolve``.
    """
    fields = parse_object(
        fields, "the body", ("inputs", "model", "version", "parameters", "stream"), {"parameters": PARAMETERS}
    )
    if fields.get("stream", False) is not False:
        raise InvalidRequest("'stream' is not supported: leave it out, or send false")
    inputs = _texts(fields, "inputs", settings)
    served, asked = _resolve(fields, resolve)
    assert served.manifest is not None, "a READY version has a manifest"
    options = parse_options(fields.get("parameters"), served.manifest, settings.max_input_characters)
    return GenerationRequest(served.name, served.version, inputs, options, asked)


def parse_score(fields: Any, resolve: Resolve, settings: Settings) -> ScoreRequest:
    """The body of ``POST /v1/score``; raises as ``parse_generate``."""
    fields = parse_object(
        fields, "the body", ("inputs", "targets", "model", "version", "parameters"), {"parameters": SCORE_PARAMETERS}
    )
    inputs = _texts(fields, "inputs", settings)
    targets = _texts(fields, "targets", settings, may_be_empty=True)
    if len(inputs) != len(targets):
        raise InvalidRequest(
            f"'targets' and 'inputs' differ in number, {len(targets)} and {len(inputs)}: send one target for each text"
        )
    raw = fields.get("parameters")
    flags = parse_object({} if raw is None else raw, "'parameters'", SCORE_PARAMETERS)
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidRequest(f"'{name}' must be true or false, not {shown(value)}")
    served, asked = _resolve(fields, resolve)
    return refit(ScoreRequest(served.name, served.version, inputs, targets, **flags, asked=asked), served)


def parse_tokenize(fields: Any, resolve: Resolve, settings: Settings) -> TokenizeRequest:
    """The body of ``POST /v1/tokenize``; raises as ``parse_generate``."""
    fields = parse_object(fields, "the body", ("inputs", "model", "version"))
    inputs = _texts(fields, "inputs", settings)
    served, asked = _resolve(fields, resolve)
    return TokenizeRequest(served.name, served.version, inputs, asked)


def parse_detokenize(fields: Any, resolve: Resolve, settings: Settings) -> DetokenizeRequest:
    """The body of ``POST /v1/detokenize``: ``ids`` of one text or of several; raises as ``parse_generate``."""
    fields = parse_object(fields, "the body", ("ids", "model", "version"))
    raw = fields.get("ids")
    if not isinstance(raw, list) or not raw:
        raise InvalidRequest("'ids' must be a list of token ids, or a list of such lists, with at least one element")
    sequences = raw if isinstance(raw[0], list) else [raw]
    if len(sequences) > settings.max_inputs:
        raise InvalidRequest(f"'ids' has {len(sequences)} lists: send at most {settings.max_inputs}")
    served, asked = _resolve(fields, resolve)
    for sequence in sequences:  # a million ids fit in a body: loops of Python over them would hold up others
        if not isinstance(sequence, list) or not {int}.issuperset(map(type, sequence)):
            raise InvalidRequest("'ids' must have integers, the ids of the model's vocabulary")
    request = DetokenizeRequest(served.name, served.version, tuple(tuple(sequence) for sequence in sequences), asked)
    return refit(request, served)


def refit(request: Request, served: ModelVersion) -> Request:
    """The same request to another version of its model, as if it had been sent to that one.

    Raises:
        InvalidRequest: it exceeds the limits of ``served``, or asks for what that does not support.
    """
    assert served.manifest is not None, "a READY version has a manifest"
    if isinstance(request, GenerationRequest):
        options = refit_options(request.options, served.manifest)
        return replace(request, version=served.version, options=options)
    if isinstance(request, ScoreRequest):
        _refuse_unscored(request.align, served, served.manifest)
    if isinstance(request, DetokenizeRequest):
        last_id = served.manifest.tokenizer.vocabulary_size - 1
        if any(sequence and (min(sequence) < 0 or max(sequence) > last_id) for sequence in request.ids):
            raise InvalidRequest(f"'ids' must have integers from 0 to {last_id}, the ids of the model's vocabulary")
    return replace(request, version=served.version)


def parse_timeout_ms(text: str | None) -> float | None:
    """The header ``X-Request-Timeout-Ms`` in seconds; None if there is none."""
    if text is None:
        return None
    digits = _MILLISECONDS.fullmatch(text.strip())
    if not digits:
        raise InvalidRequest("X-Request-Timeout-Ms must be a whole number of milliseconds, at least 1, such as 5000")
    return int(digits[1]) / 1000  # without the leading zeros: Python converts no more than 4300 digits


def _resolve(fields: Mapping[str, Any], resolve: Resolve) -> tuple[ModelVersion, VersionChoice]:
    """The version that will answer, and what was asked for; null stands for a field that is left out."""
    model, version = fields.get("model"), fields.get("version")
    if model is not None and (not isinstance(model, str) or not 1 <= len(model) <= LONGEST_NAME):
        raise InvalidRequest(f"'model' must be the name of a model, a string of at most {LONGEST_NAME} characters")
    if isinstance(version, str):
        if not LABEL.fullmatch(version):
            raise InvalidRequest(
                "'version' must be the number of a version such as 3, without quotes, or a label such as \"stable\""
            )
    elif version is not None and (not is_integer(version) or version not in VERSIONS):
        raise InvalidRequest(
            f"'version' must be a positive integer, the number of a version, or a label, not {shown(version)}"
        )
    return resolve(model, version), version


def _texts(fields: Mapping[str, Any], name: str, settings: Settings, *, may_be_empty: bool = False) -> tuple[str, ...]:
    raw = fields.get(name)
    longest = settings.max_input_characters
    if isinstance(raw, str):
        return (parse_text(name, raw, longest, may_be_empty=may_be_empty),)
    if not isinstance(raw, list) or not raw:
        raise InvalidRequest(f"'{name}' must be a text, or a list of at least one")
    if len(raw) > settings.max_inputs:
        raise InvalidRequest(f"'{name}' has {len(raw)} texts: send at most {settings.max_inputs} in one request")
    return tuple(
        parse_text(f"{name}[{index}]", value, longest, may_be_empty=may_be_empty) for index, value in enumerate(raw)
    )


def _refuse_unscored(align: bool, served: ModelVersion, manifest: Manifest) -> None:
    """Refuse what its signatures cannot do."""
    which = f"version {served.version} of model '{served.name}'"
    if "score_ids" not in manifest.signatures:
        raise InvalidRequest(f"{which} was exported before there was scoring: ask another, or export it anew")
    if align and "align" not in manifest.signatures:
        why = "has no attention" if "tokenize" in manifest.signatures else "was exported for token ids alone"
        raise InvalidRequest(f"'align' is not supported by {which}, which {why}: leave it out")
