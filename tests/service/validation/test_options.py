"""Every option with its bounds, and what contradicts or is not supported."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from model_export.contract import OPTIONS, Limits, Manifest
from service.backends.scripted import scripted_manifest
from service.errors import InvalidRequest
from service.generation import GenerationOptions
from service.validation.options import PARAMETERS, parse_options, refit_options

LIMITS = Limits(max_source_tokens=16, max_target_tokens=32, max_beam_size=4, default_max_new_tokens=8)
MANIFEST = scripted_manifest("echo", LIMITS)


def parse(parameters: Any, manifest: Manifest = MANIFEST) -> GenerationOptions:
    return parse_options(parameters, manifest, longest_prefix=20)


NEUTRAL = {name: option.neutral for name, option in OPTIONS.items() if name not in ("max_new_tokens", "seed")}
"""Of two, nothing says that the gateway is to choose."""


def test_every_option_has_a_place_on_the_wire() -> None:
    assert set(PARAMETERS) == {field.name for field in fields(GenerationOptions)}


def test_neutral_values_are_the_defaults_and_accepted_by_every_model() -> None:
    manifest = replace(MANIFEST, supported_options=())
    assert parse(NEUTRAL | {"stop": [], "prefix": ""}, manifest) == GenerationOptions()
    defaults = {field.name: field.default for field in fields(GenerationOptions)}
    assert {name: defaults[name] for name in NEUTRAL} == NEUTRAL
    assert (defaults["max_new_tokens"], defaults["seed"]) == (None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("do_sample", True),
        ("temperature", 0.5),
        ("top_k", 5),
        ("top_p", 0.9),
        ("repetition_penalty", 1.1),
        ("no_repeat_ngram_size", 3),
        ("disable_unk", True),
    ],
)
def test_an_option_acts_only_where_the_model_supports_it(name: str, value: Any) -> None:
    others = replace(MANIFEST, supported_options=tuple(each for each in MANIFEST.supported_options if each != name))
    with pytest.raises(InvalidRequest, match=rf"'{name}' is not supported by model 'echo': leave it out"):
        parse({name: value}, others)
    assert getattr(parse({name: value}), name) == value


@pytest.mark.parametrize("options", [{"seed": 0}, {"seed": 2**63 - 1}, {"stop": ["."]}, {"details": True}])
def test_what_the_gateway_does_needs_no_support(options: dict[str, Any]) -> None:
    parsed = parse(options, replace(MANIFEST, supported_options=()))
    assert parsed == GenerationOptions(**{name: tuple(v) if name == "stop" else v for name, v in options.items()})


def test_samples_may_be_as_many_as_the_model_has_beams() -> None:
    options = {"do_sample": True, "num_hypotheses": 4, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 0}
    assert parse(options) == GenerationOptions(**options)
    assert parse(options | {"beam_size": 1}) == GenerationOptions(**options)


def test_sampling_options_without_sampling_are_no_error() -> None:
    """Toggling one option must not make others wrong; the answer warns of them."""
    assert parse({"temperature": 0.7, "do_sample": False}) == GenerationOptions(temperature=0.7)


def test_stop_strings_may_be_white_space() -> None:
    assert parse({"stop": ["\n", " ", "。", "a" * 256]}).stop == ("\n", " ", "。", "a" * 256)


def test_parsed_options_fit_again() -> None:
    options = parse({"stop": ["."], "seed": 0, "do_sample": True, "top_p": 0.5, "prefix": "the", "max_new_tokens": 5})
    assert refit_options(options, MANIFEST) == options


REFUSED = [
    ({"beam_sice": 2}, "'parameters' has no field 'beam_sice': did you mean 'beam_size'"),
    ({"beam_size": 0}, r"'beam_size' must be an integer from 1 to 4 \(the model's limit\), not 0"),
    ({"beam_size": 5}, r"'beam_size' must be an integer from 1 to 4 \(the model's limit\), not 5"),
    ({"beam_size": True}, "'beam_size' must be an integer .* not true"),
    ({"beam_size": 2.0}, "'beam_size' must be an integer .* not 2.0"),
    ({"beam_size": "2"}, "'beam_size' must be an integer .* not a string"),
    ({"beam_size": None}, "'beam_size' must be an integer .* not null"),
    ({"beam_size": 10**5000}, "'beam_size' must be an integer .* not an integer of so many digits"),
    (
        {"num_hypotheses": 2},
        "'num_hypotheses' is 2, more than 'beam_size' 1: set 'beam_size' to at least 2, .*'do_sample'",
    ),
    ({"max_new_tokens": 0}, "'max_new_tokens' must be an integer from 1 to 32"),
    ({"max_new_tokens": 33}, "'max_new_tokens' must be an integer from 1 to 32"),
    ({"min_new_tokens": -1}, "'min_new_tokens' must be an integer from 0 to 32"),
    ({"min_new_tokens": 6, "max_new_tokens": 5}, "'min_new_tokens' is 6, more than 'max_new_tokens' 5"),
    ({"length_penalty": -0.1}, "'length_penalty' must be a number from 0 to 10, not -0.1"),
    ({"length_penalty": float("nan")}, "'length_penalty' must be a number .* beyond all bounds"),
    ({"length_penalty": float("inf")}, "'length_penalty' must be a number .* beyond all bounds"),
    ({"length_penalty": 10**400}, "'length_penalty' must be a number from 0 to 10"),
    ({"length_penalty": True}, "'length_penalty' must be a number .* not true"),
    ({"temperature": 0}, "'temperature' must be a number above 0, at most 100, not 0"),
    ({"top_p": 1.1}, "'top_p' must be a number above 0, at most 1"),
    ({"top_k": -1}, "'top_k' must be an integer from 0"),
    ({"seed": 2**63}, "'seed' must be an integer"),
    ({"repetition_penalty": 0.0}, "'repetition_penalty' must be a number from 0.01 to 100"),
    ({"repetition_penalty": 1e-38}, "'repetition_penalty' must be a number from 0.01 to 100"),
    ({"temperature": 1e-46}, "'temperature' must be a number above 0, at most 100, not 1e-46"),
    ({"top_p": 1e-38}, "'top_p' must be a number above 0, at most 1, not 1e-38"),
    ({"no_repeat_ngram_size": 9}, "'no_repeat_ngram_size' must be an integer from 0 to 8"),
    ({"do_sample": 1}, "'do_sample' must be true or false, not 1"),
    ({"disable_unk": "no"}, "'disable_unk' must be true or false"),
    ({"truncate": None}, "'truncate' must be true or false, not null"),
    ({"details": 0}, "'details' must be true or false, not 0"),
    ({"stop": "."}, "'stop' must be a list of at most 4 strings, not a string"),
    ({"stop": None}, "'stop' must be a list of at most 4 strings, not null"),
    ({"stop": ["."] * 5}, "'stop' has 5 strings: send at most 4"),
    ({"stop": [".", ""]}, r"'stop\[1\]' must be a string of 1 to 256 characters, not one of 0"),
    ({"stop": ["a" * 257]}, r"'stop\[0\]' must be a string of 1 to 256 characters, not one of 257"),
    ({"stop": [5]}, r"'stop\[0\]' must be a string of 1 to 256 characters, not 5"),
    ({"stop": ["\ud800"]}, r"'stop\[0\]' has half of a surrogate pair at 0"),
    ({"do_sample": True, "beam_size": 2}, "'beam_size' is 2, but sampling and beams exclude each other: .*'num_hyp"),
    ({"do_sample": True, "num_hypotheses": 5}, "'num_hypotheses' must be an integer from 1 to 4"),
    ({"seed": -1}, "'seed' must be an integer from 0 to"),
    ({"seed": 1.0}, "'seed' must be an integer"),
    ({"temperature": 100.5}, "'temperature' must be a number above 0, at most 100"),
    ({"top_p": 0}, "'top_p' must be a number above 0, at most 1"),
    ({"top_k": 2**31}, "'top_k' must be an integer from 0"),
    ({"prefix": 5}, "'prefix' must be a string"),
    ({"prefix": "  "}, "'prefix' is empty"),
    ({"prefix": "a\0"}, "'prefix' has a NUL character"),
    ({"prefix": "a" * 21}, "'prefix' has 21 characters"),
]


@pytest.mark.parametrize(("parameters", "message"), REFUSED)
def test_what_is_wrong_is_refused_by_name(parameters: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse(parameters)


def test_refusals_quote_no_text() -> None:
    for parameters in ({"top_k": "secret"}, {"stop": ["secret" * 99]}, {"prefix": "secret\0"}):
        with pytest.raises(InvalidRequest) as refused:
            parse(parameters)
        assert "secret" not in refused.value.message
