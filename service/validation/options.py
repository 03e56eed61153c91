"""The decoding options of a request, each with its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from model_export.contract import Limits, Manifest
from service.errors import InvalidRequest
from service.generation import SEEDS, GenerationOptions
from service.validation.fields import is_integer, parse_object, parse_text, refuse_lone_surrogate, shown

_INT32_MAX: Final = 2**31 - 1
_LEAST_ABOVE_0: Final = 2.0**-126
"""What is less, models take for 0: they compute in float32, without denormal numbers."""
MOST_STOPS: Final = 4
LONGEST_STOP: Final = 256
"""Characters of one of ``stop``."""


@dataclass(frozen=True, slots=True)
class _Integer:
    """A whole number from ``low`` to ``high``, which may be the name of a limit of the model."""

    low: int
    high: int | str

    def parse(self, name: str, value: Any, limits: Limits) -> int:
        high: int = getattr(limits, self.high) if isinstance(self.high, str) else self.high
        if not is_integer(value) or not self.low <= value <= high:
            whose = " (the model's limit)" if isinstance(self.high, str) else ""
            raise InvalidRequest(f"'{name}' must be an integer from {self.low} to {high}{whose}, not {shown(value)}")
        return value


@dataclass(frozen=True, slots=True)
class _Number:
    """A finite number from ``low`` to ``high``; ``above``: ``low`` itself, which is 0, is excluded."""

    low: float
    high: float
    above: bool = False

    def parse(self, name: str, value: Any, limits: Limits) -> float:
        if (
            type(value) not in (int, float)
            or not self.low <= value <= self.high
            or (self.above and value < _LEAST_ABOVE_0)
        ):
            bounds = (
                f"above {self.low:g}, at most {self.high:g}" if self.above else f"from {self.low:g} to {self.high:g}"
            )
            raise InvalidRequest(f"'{name}' must be a number {bounds}, not {shown(value)}")
        return float(value)


@dataclass(frozen=True, slots=True)
class _Boolean:
    """true or false."""

    def parse(self, name: str, value: Any, limits: Limits) -> bool:
        if not isinstance(value, bool):
            raise InvalidRequest(f"'{name}' must be true or false, not {shown(value)}")
        return value


@dataclass(frozen=True, slots=True)
class _Strings:
    """At most ``most`` strings of 1 to ``longest`` characters; white space is no less one than any other."""

    most: int
    longest: int

    def parse(self, name: str, value: Any, limits: Limits) -> tuple[str, ...]:
        if not isinstance(value, (list, tuple)):
            raise InvalidRequest(f"'{name}' must be a list of at most {self.most} strings, not {shown(value)}")
        if len(value) > self.most:
            raise InvalidRequest(f"'{name}' has {len(value)} strings: send at most {self.most}")
        for index, each in enumerate(value):
            if not isinstance(each, str) or not 1 <= len(each) <= self.longest:
                what = f"one of {len(each)}" if isinstance(each, str) else shown(each)
                raise InvalidRequest(
                    f"'{name}[{index}]' must be a string of 1 to {self.longest} characters, not {what}"
                )
            refuse_lone_surrogate(f"{name}[{index}]", each)
        return tuple(value)


_OPTIONS: Final[Mapping[str, _Integer | _Number | _Boolean | _Strings]] = {
    "beam_size": _Integer(1, "max_beam_size"),
    "num_hypotheses": _Integer(1, "max_beam_size"),
    "max_new_tokens": _Integer(1, "max_target_tokens"),
    "min_new_tokens": _Integer(0, "max_target_tokens"),
    "length_penalty": _Number(0.0, 10.0),
    "do_sample": _Boolean(),
    "temperature": _Number(0.0, 100.0, above=True),
    "top_k": _Integer(0, _INT32_MAX),
    "top_p": _Number(0.0, 1.0, above=True),
    "seed": _Integer(0, SEEDS - 1),
    "repetition_penalty": _Number(0.01, 100.0),
    "no_repeat_ngram_size": _Integer(0, 8),
    "disable_unk": _Boolean(),
    "stop": _Strings(most=MOST_STOPS, longest=LONGEST_STOP),
    "truncate": _Boolean(),
    "details": _Boolean(),
}
"""Fields of ``GenerationOptions`` but ``prefix``, with their bounds."""

PARAMETERS: Final = (*_OPTIONS, "prefix")
"""Names of all options on the wire."""

_OF_THE_GATEWAY: Final = frozenset({"stop", "truncate", "details", "seed"})
"""Options that no model has to support; ``seed`` acts through ``do_sample`` alone, which it must."""
_NEUTRAL: Final = GenerationOptions()


def parse_options(raw: Any, manifest: Manifest, longest_prefix: int) -> GenerationOptions:
    """``parameters`` of a request to the model of ``manifest``; None: there are none.

    Raises:
        InvalidRequest: an option is out of bounds, contradicts another, or is not supported by the model.
    """
    if raw is None:
        return _NEUTRAL
    given = dict(parse_object(raw, "'parameters'", PARAMETERS))
    values: dict[str, Any] = {}
    if given.pop("prefix", "") != "":
        values["prefix"] = parse_text("prefix", raw["prefix"], longest_prefix)
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


def refit_options(options: GenerationOptions, manifest: Manifest) -> GenerationOptions:
    """Parsed options, as ``parse_options`` would have them for the model of ``manifest``; raises as it does."""
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    return parse_options(
        {name: value for name, value in given.items() if value != getattr(_NEUTRAL, name)},
        manifest,
        len(options.prefix),
    )


def _refuse_contradictions(options: GenerationOptions) -> None:
    if options.do_sample and options.beam_size > 1:
        raise InvalidRequest(
            f"'do_sample' is true and 'beam_size' is {options.beam_size}, but sampling and beams exclude each other: "
            "leave one of them out; 'num_hypotheses' gives several samples"
        )
    if options.num_hypotheses > options.beam_size and not options.do_sample:
        raise InvalidRequest(
            f"'num_hypotheses' is {options.num_hypotheses}, more than 'beam_size' {options.beam_size}: "
            f"set 'beam_size' to at least {options.num_hypotheses}, ask for fewer, or set 'do_sample' to true"
        )
    if options.max_new_tokens is not None and options.min_new_tokens > options.max_new_tokens:
        raise InvalidRequest(
            f"'min_new_tokens' is {options.min_new_tokens}, more than 'max_new_tokens' {options.max_new_tokens}: "
            "lower the one or raise the other"
        )
