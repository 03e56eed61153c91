"""Raw fields and limits -> requests, which exist only if their fields are valid.

Fields come JSON-decoded from any transport. Types are exact: a boolean is no integer, 1.0 is none either, while an
integer is a number. Every refusal is an ``InvalidRequest`` that names the field and says what would be right; it quotes
no text.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from model_export.contract import Limits, Manifest
from service.backend import ModelVersion
from service.errors import InvalidRequest
from service.generation import DetokenizeRequest, GenerationOptions, GenerationRequest, TokenizeRequest
from service.settings import Settings

Resolve = Callable[[str | None, int | None], ModelVersion]
"""``Engine.resolve``."""

LONGEST_NAME: Final = 256
_INT32_MAX: Final = 2**31 - 1
_INT64_MAX: Final = 2**63 - 1
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_MILLISECONDS: Final = re.compile("0*[1-9][0-9]{0,9}")
_KINDS: Final = {
    bool: "a boolean",
    int: "an integer",
    float: "a number with a decimal point",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


# --- requests ---------------------------------------------------------------------------------------------------------


def parse_generate(fields: Any, resolve: Resolve, settings: Settings) -> GenerationRequest:
    """The body of ``POST /v1/generate``.

    Raises:
        InvalidRequest: a field is wrong, or not supported by the model.
        ModelNotFound, BackendUnavailable: as ``resolve``.
    """
    fields = _object(fields, "the body", ("inputs", "model", "version", "parameters", "stream"))
    if fields.get("stream", False) is not False:
        raise InvalidRequest("'stream' is not supported: leave it out, or send false")
    inputs = _inputs(fields, settings)
    served = _resolve(fields, resolve)
    assert served.manifest is not None, "a READY version has a manifest"
    options = _options(fields.get("parameters"), served.manifest, settings)
    return GenerationRequest(served.name, served.version, inputs, options)


def parse_tokenize(fields: Any, resolve: Resolve, settings: Settings) -> TokenizeRequest:
    """The body of ``POST /v1/tokenize``; raises as ``parse_generate``."""
    fields = _object(fields, "the body", ("inputs", "model", "version"))
    inputs = _inputs(fields, settings)
    served = _resolve(fields, resolve)
    return TokenizeRequest(served.name, served.version, inputs)


def parse_detokenize(fields: Any, resolve: Resolve, settings: Settings) -> DetokenizeRequest:
    """The body of ``POST /v1/detokenize``: ``ids`` of one text or of several; raises as ``parse_generate``."""
    fields = _object(fields, "the body", ("ids", "model", "version"))
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
        if not isinstance(sequence, list) or not all(_is_integer(id_) and 0 <= id_ <= last_id for id_ in sequence):
            raise InvalidRequest(f"'ids' must have integers from 0 to {last_id}, the ids of the model's vocabulary")
    return DetokenizeRequest(served.name, served.version, tuple(tuple(sequence) for sequence in sequences))


def parse_timeout_ms(text: str | None) -> float | None:
    """The header ``X-Request-Timeout-Ms`` in seconds; None if there is none."""
    if text is None:
        return None
    if not _MILLISECONDS.fullmatch(text.strip()):
        raise InvalidRequest("X-Request-Timeout-Ms must be a whole number of milliseconds, at least 1, such as 5000")
    return int(text) / 1000


# --- decoding options -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Integer:
    """A whole number from ``low`` to ``high``, which may be the name of a limit of the model."""

    low: int
    high: int | str

    def parse(self, name: str, value: Any, limits: Limits) -> int:
        high: int = getattr(limits, self.high) if isinstance(self.high, str) else self.high
        if not _is_integer(value) or not self.low <= value <= high:
            whose = " (the model's limit)" if isinstance(self.high, str) else ""
            raise InvalidRequest(f"'{name}' must be an integer from {self.low} to {high}{whose}, not {_shown(value)}")
        return value


@dataclass(frozen=True, slots=True)
class _Number:
    """A finite number from ``low`` to ``high``; ``above``: ``low`` itself is excluded."""

    low: float
    high: float
    above: bool = False

    def parse(self, name: str, value: Any, limits: Limits) -> float:
        if type(value) not in (int, float) or not self.low <= value <= self.high or (self.above and value == self.low):
            bounds = (
                f"above {self.low:g}, at most {self.high:g}" if self.above else f"from {self.low:g} to {self.high:g}"
            )
            raise InvalidRequest(f"'{name}' must be a number {bounds}, not {_shown(value)}")
        return float(value)


@dataclass(frozen=True, slots=True)
class _Boolean:
    """true or false."""

    def parse(self, name: str, value: Any, limits: Limits) -> bool:
        if not isinstance(value, bool):
            raise InvalidRequest(f"'{name}' must be true or false, not {_shown(value)}")
        return value


_OPTIONS: Final[Mapping[str, _Integer | _Number | _Boolean]] = {
    "beam_size": _Integer(1, "max_beam_size"),
    "num_hypotheses": _Integer(1, "max_beam_size"),
    "max_new_tokens": _Integer(1, "max_target_tokens"),
    "min_new_tokens": _Integer(0, "max_target_tokens"),
    "length_penalty": _Number(0.0, 10.0),
    "do_sample": _Boolean(),
    "temperature": _Number(0.0, 100.0, above=True),
    "top_k": _Integer(0, _INT32_MAX),
    "top_p": _Number(0.0, 1.0, above=True),
    "seed": _Integer(0, _INT64_MAX),
    "repetition_penalty": _Number(0.0, 100.0, above=True),
    "no_repeat_ngram_size": _Integer(0, 8),
    "disable_unk": _Boolean(),
    "truncate": _Boolean(),
    "details": _Boolean(),
}
"""Fields of ``GenerationOptions`` but ``prefix``, with their bounds."""

_PARAMETERS: Final = (*_OPTIONS, "prefix", "stop")
_OF_THE_GATEWAY: Final = frozenset({"truncate", "details"})
"""Options that no model has to support."""
_NEUTRAL: Final = GenerationOptions()


def _options(raw: Any, manifest: Manifest, settings: Settings) -> GenerationOptions:
    if raw is None:
        return _NEUTRAL
    given = dict(_object(raw, "'parameters'", _PARAMETERS))
    if given.pop("stop", []) != []:
        raise InvalidRequest("'stop' is not supported: leave it out, or send an empty list")
    values: dict[str, Any] = {}
    if given.pop("prefix", "") != "":
        values["prefix"] = _text("prefix", raw["prefix"], settings.max_input_characters)
    values |= {name: _OPTIONS[name].parse(name, value, manifest.limits) for name, value in given.items()}
    for name, value in values.items():
        supported = name in _OF_THE_GATEWAY or name in manifest.supported_options
        if not supported and value != getattr(_NEUTRAL, name):
            acts_on = ", ".join(manifest.supported_options)
            raise InvalidRequest(
                f"'{name}' is not supported by model '{manifest.model_name}': leave it out; it acts on {acts_on}"
            )
    options = GenerationOptions(**values)
    _refuse_contradictions(options)
    return options


def _refuse_contradictions(options: GenerationOptions) -> None:
    if options.num_hypotheses > options.beam_size:
        raise InvalidRequest(
            f"'num_hypotheses' is {options.num_hypotheses}, more than 'beam_size' {options.beam_size}: "
            f"set 'beam_size' to at least {options.num_hypotheses}, or ask for fewer"
        )
    if options.max_new_tokens is not None and options.min_new_tokens > options.max_new_tokens:
        raise InvalidRequest(
            f"'min_new_tokens' is {options.min_new_tokens}, more than 'max_new_tokens' {options.max_new_tokens}: "
            "lower the one or raise the other"
        )


# --- fields -----------------------------------------------------------------------------------------------------------


def _object(value: Any, what: str, known: Collection[str]) -> Mapping[str, Any]:
    """``value`` as an object that has none but ``known`` fields."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} must be an object with fields of {', '.join(known)}, not {_shown(value)}")
    for name in value:
        if name not in known:
            raise InvalidRequest(f"{what} has no field {name[:64]!a}: {_advice(name[:64], known)}")
    return value


def _advice(name: str, known: Collection[str]) -> str:
    if "inputs" in known and name in _PARAMETERS:
        return f"it belongs into 'parameters', {{'parameters': {{'{name}': ...}}}}"
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}"


def _resolve(fields: Mapping[str, Any], resolve: Resolve) -> ModelVersion:
    """The version that will answer; null stands for a field that is left out."""
    model, version = fields.get("model"), fields.get("version")
    if model is not None and (not isinstance(model, str) or not 1 <= len(model) <= LONGEST_NAME):
        raise InvalidRequest(f"'model' must be the name of a model, a string of at most {LONGEST_NAME} characters")
    if isinstance(version, str):
        raise InvalidRequest("'version' must be the number of a version such as 3: labels are not supported")
    if version is not None and (not _is_integer(version) or not 1 <= version <= _INT64_MAX):
        raise InvalidRequest(f"'version' must be a positive integer, the number of a version, not {_shown(version)}")
    return resolve(model, version)


def _inputs(fields: Mapping[str, Any], settings: Settings) -> tuple[str, ...]:
    raw = fields.get("inputs")
    if isinstance(raw, str):
        return (_text("inputs", raw, settings.max_input_characters),)
    if not isinstance(raw, list) or not raw:
        raise InvalidRequest("'inputs' must be a text, or a list of at least one")
    if len(raw) > settings.max_inputs:
        raise InvalidRequest(f"'inputs' has {len(raw)} texts: send at most {settings.max_inputs} in one request")
    return tuple(_text(f"inputs[{index}]", value, settings.max_input_characters) for index, value in enumerate(raw))


def _text(name: str, value: Any, longest: int) -> str:
    """A text that can be tokenized and sent."""
    if not isinstance(value, str):
        raise InvalidRequest(f"'{name}' must be a string, not {_KINDS.get(type(value), 'that')}")
    if not value or value.isspace():
        raise InvalidRequest(f"'{name}' is empty: send a text with visible characters")
    if len(value) > longest:
        raise InvalidRequest(f"'{name}' has {len(value)} characters: send at most {longest}, or split it")
    if "\0" in value:
        raise InvalidRequest(f"'{name}' has a NUL character at {value.index(chr(0))}: remove it")
    if not value.isascii() and (found := _LONE_SURROGATE.search(value)):
        raise InvalidRequest(
            f"'{name}' has half of a surrogate pair at {found.start()}, which is no character: send both halves or none"
        )
    return value


def _is_integer(value: Any) -> TypeGuard[int]:
    return type(value) is int  # exact: true is no 1


def _shown(value: Any) -> str:
    """A wrong value as a message names it: numbers as they are while short, of all else the kind."""
    if isinstance(value, (bool, type(None))):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**15):
        return f"{value}" if math.isfinite(value) else "a number beyond all bounds"
    return "an integer of so many digits" if isinstance(value, int) else _KINDS.get(type(value), "that")
