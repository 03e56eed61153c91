"""Every option with its bounds, and what contradicts or is not supported."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from model_export.contract import OPTIONS, Limits, Manifest
from service.backends.scripted import scripted_manifest
from service.errors import InvalidRequest
from service.generation import GenerationOptions
from service.validation.options import PARAMETERS, parse_options

LIMITS = Limits(max_source_tokens=16, max_target_tokens=32, max_beam_size=4, default_max_new_tokens=8)
MANIFEST = scripted_manifest("echo", LIMITS)


def parse(parameters: Any, manifest: Manifest = MANIFEST) -> GenerationOptions:
    return parse_options(parameters, manifest, longest_prefix=20)


def test_every_option_has_a_place_on_the_wire() -> None:
    assert set(PARAMETERS) == {field.name for field in fields(GenerationOptions)} | {"stop"}


def test_neutral_values_of_options_that_come_later_are_accepted() -> None:
    neutral = {name: option.neutral for name, option in OPTIONS.items() if name != "max_new_tokens"}
    assert parse(neutral | {"stop": [], "prefix": ""}) == GenerationOptions()


def test_defaults_are_the_contracts_neutral_values() -> None:
    defaults = {field.name: field.default for field in fields(GenerationOptions)}
    assert {name: defaults[name] for name in OPTIONS if name != "max_new_tokens"} == {
        name: option.neutral for name, option in OPTIONS.items() if name != "max_new_tokens"
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("do_sample", True),
        ("temperature", 0.5),
        ("top_k", 5),
        ("top_p", 0.9),
        ("seed", 7),
        ("repetition_penalty", 1.1),
        ("no_repeat_ngram_size", 3),
        ("disable_unk", True),
    ],
)
def test_an_option_acts_only_where_the_model_supports_it(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=rf"'{name}' is not supported by model 'echo': leave it out"):
        parse({name: value})
    manifest = replace(MANIFEST, supported_options=(*MANIFEST.supported_options, name))
    assert getattr(parse({name: value}, manifest), name) == value


REFUSED = [
    ({"beam_sice": 2}, "'parameters' has no field 'beam_sice': did you mean 'beam_size'"),
    ({"beam_size": 0}, r"'beam_size' must be an integer from 1 to 4 \(the model's limit\), not 0"),
    ({"beam_size": 5}, r"'beam_size' must be an integer from 1 to 4 \(the model's limit\), not 5"),
    ({"beam_size": True}, "'beam_size' must be an integer .* not true"),
    ({"beam_size": 2.0}, "'beam_size' must be an integer .* not 2.0"),
    ({"beam_size": "2"}, "'beam_size' must be an integer .* not a string"),
    ({"beam_size": None}, "'beam_size' must be an integer .* not null"),
    ({"beam_size": 10**5000}, "'beam_size' must be an integer .* not an integer of so many digits"),
    ({"num_hypotheses": 2}, "'num_hypotheses' is 2, more than 'beam_size' 1: set 'beam_size' to at least 2"),
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
    ({"repetition_penalty": 0.0}, "'repetition_penalty' must be a number above 0"),
    ({"no_repeat_ngram_size": 9}, "'no_repeat_ngram_size' must be an integer from 0 to 8"),
    ({"do_sample": 1}, "'do_sample' must be true or false, not 1"),
    ({"disable_unk": "no"}, "'disable_unk' must be true or false"),
    ({"truncate": None}, "'truncate' must be true or false, not null"),
    ({"details": 0}, "'details' must be true or false, not 0"),
    ({"stop": ["."]}, "'stop' is not supported: leave it out"),
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
    for parameters in ({"top_k": "secret"}, {"stop": ["secret"]}, {"prefix": "secret\0"}):
        with pytest.raises(InvalidRequest) as refused:
            parse(parameters)
        assert "secret" not in refused.value.message
