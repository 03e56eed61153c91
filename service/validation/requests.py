"""Bodies and headers -> requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from service.backend import ModelVersion
from service.errors import InvalidRequest
from service.generation import DetokenizeRequest, GenerationRequest, TokenizeRequest
from service.settings import Settings
from service.validation.fields import is_integer, parse_object, parse_text, shown
from service.validation.options import PARAMETERS, parse_options

Resolve = Callable[[str | None, int | None], ModelVersion]
"""``Engine.resolve``."""

LONGEST_NAME: Final = 256
_INT64_MAX: Final = 2**63 - 1
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
    inputs = _inputs(fields, settings)
    served = _resolve(fields, resolve)
    assert served.manifest is not None, "a READY version has a manifest"
    options = parse_options(fields.get("parameters"), served.manifest, settings.max_input_characters)
    return GenerationRequest(served.name, served.version, inputs, options)


def parse_tokenize(fields: Any, resolve: Resolve, settings: Settings) -> TokenizeRequest:
    """The body of ``POST /v1/tokenize``; raises as ``parse_generate``."""
    fields = parse_object(fields, "the body", ("inputs", "model", "version"))
    inputs = _inputs(fields, settings)
    served = _resolve(fields, resolve)
    return TokenizeRequest(served.name, served.version, inputs)


def parse_detokenize(fields: Any, resolve: Resolve, settings: Settings) -> DetokenizeRequest:
    """The body of ``POST /v1/detokenize``: ``ids`` of one text or of several; raises as ``parse_generate``."""
    fields = parse_object(fields, "the body", ("ids", "model", "version"))
    raw = fields.get("ids")
    if not isinstance(raw, list) or not raw:
        raise InvalidRequest("'ids' must be a list of token ids, or a list of such lists, with at least one element")
    sequences = raw if isinstance(raw[0], list) else [raw]
    if len(sequences) > settings.max_inputs:
        raise InvalidRequest(f"'ids' has {len(sequences)} lists: send at most {settings.max_inputs}")
    served = _resolve(fields, resolve)
    assert served.manifest is not None, "a READY version has a manifest"
    last_id = served.manifest.tokenizer.vocabulary_size - 1
    for sequence in sequences:
        if not isinstance(sequence, list) or not all(is_integer(id_) and 0 <= id_ <= last_id for id_ in sequence):
            raise InvalidRequest(f"'ids' must have integers from 0 to {last_id}, the ids of the model's vocabulary")
    return DetokenizeRequest(served.name, served.version, tuple(tuple(sequence) for sequence in sequences))


def parse_timeout_ms(text: str | None) -> float | None:
    """The header ``X-Request-Timeout-Ms`` in seconds; None if there is none."""
    if text is None:
        return None
    digits = _MILLISECONDS.fullmatch(text.strip())
    if not digits:
        raise InvalidRequest("X-Request-Timeout-Ms must be a whole number of milliseconds, at least 1, such as 5000")
    return int(digits[1]) / 1000  # without the leading zeros: Python converts no more than 4300 digits


def _resolve(fields: Mapping[str, Any], resolve: Resolve) -> ModelVersion:
    """The version that will answer; null stands for a field that is left out."""
    model, version = fields.get("model"), fields.get("version")
    if model is not None and (not isinstance(model, str) or not 1 <= len(model) <= LONGEST_NAME):
        raise InvalidRequest(f"'model' must be the name of a model, a string of at most {LONGEST_NAME} characters")
    if isinstance(version, str):
        raise InvalidRequest("'version' must be the number of a version such as 3: labels are not supported")
    if version is not None and (not is_integer(version) or not 1 <= version <= _INT64_MAX):
        raise InvalidRequest(f"'version' must be a positive integer, the number of a version, not {shown(version)}")
    return resolve(model, version)


def _inputs(fields: Mapping[str, Any], settings: Settings) -> tuple[str, ...]:
    raw = fields.get("inputs")
    if isinstance(raw, str):
        return (parse_text("inputs", raw, settings.max_input_characters),)
    if not isinstance(raw, list) or not raw:
        raise InvalidRequest("'inputs' must be a text, or a list of at least one")
    if len(raw) > settings.max_inputs:
        raise InvalidRequest(f"'inputs' has {len(raw)} texts: send at most {settings.max_inputs} in one request")
    return tuple(
        parse_text(f"inputs[{index}]", value, settings.max_input_characters) for index, value in enumerate(raw)
    )
