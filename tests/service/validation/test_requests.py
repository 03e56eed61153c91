"""Every field of a body; each refusal names the field and says what would be right."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_export.contract import Limits
from service.backend import ModelVersion, VersionState
from service.backends.scripted import scripted_manifest, tiny_tokenizer
from service.errors import InvalidRequest, ServiceError
from service.generation import (
    DetokenizeRequest,
    GenerationOptions,
    GenerationRequest,
    ScoreRequest,
    TokenizeRequest,
    VersionChoice,
)
from service.settings import Settings
from service.validation import (
    parse_detokenize,
    parse_generate,
    parse_score,
    parse_timeout_ms,
    parse_tokenize,
    refit,
)

SETTINGS = Settings(max_inputs=3, max_input_characters=20)
LIMITS = Limits(max_source_tokens=16, max_target_tokens=32, max_beam_size=4, default_max_new_tokens=8)
SERVED = ModelVersion("echo", 3, VersionState.READY, None, scripted_manifest("echo", LIMITS), tiny_tokenizer())


def resolve(model: str | None, version: VersionChoice) -> ModelVersion:
    return SERVED


def parse(body: Any) -> GenerationRequest:
    return parse_generate(body, resolve, SETTINGS)


def test_one_text_with_nothing_else() -> None:
    assert parse({"inputs": "a"}) == GenerationRequest("echo", 3, ("a",), GenerationOptions())


def test_every_field() -> None:
    parameters = {
        "beam_size": 4,
        "num_hypotheses": 2,
        "max_new_tokens": 32,
        "min_new_tokens": 1,
        "length_penalty": 0,
        "prefix": "the",
        "truncate": True,
        "details": True,
    }
    body = {"inputs": ["a", "b"], "model": "echo", "version": 3, "parameters": parameters, "stream": False}
    assert parse(body) == GenerationRequest("echo", 3, ("a", "b"), GenerationOptions(**parameters), asked=3)


def test_null_leaves_out_what_may_be_left_out() -> None:
    assert parse({"inputs": "a", "model": None, "version": None, "parameters": None}).options == GenerationOptions()


@pytest.mark.parametrize("version", [None, 7, "stable", "_v.1-b"])
def test_a_version_is_a_number_a_label_or_left_out(version: VersionChoice) -> None:
    resolved = []

    def resolve(model: str | None, version: VersionChoice) -> ModelVersion:
        resolved.append((model, version))
        return SERVED

    for parse_body, body in (
        (parse_generate, {"inputs": "a"}),
        (parse_score, {"inputs": "a", "targets": "b"}),
        (parse_tokenize, {"inputs": "a"}),
        (parse_detokenize, {"ids": [5]}),
    ):
        request = parse_body({**body, "version": version}, resolve, SETTINGS)
        assert (request.version, request.asked) == (3, version)
    assert resolved == [(None, version)] * 4


def test_a_request_fits_another_version_or_is_refused_as_if_sent_to_it() -> None:
    parameters = {"beam_size": 4, "num_hypotheses": 2, "prefix": "the", "details": True, "min_new_tokens": 20}
    request = parse({"inputs": "a", "parameters": parameters, "version": "stable"})

    def other(**limits: int) -> ModelVersion:
        return replace(SERVED, version=4, manifest=scripted_manifest("echo", replace(LIMITS, **limits)))

    assert refit(request, other()) == replace(request, version=4)
    with pytest.raises(InvalidRequest, match="'beam_size' must be an integer from 1 to 2"):
        refit(request, other(max_beam_size=2))
    with pytest.raises(InvalidRequest, match="'min_new_tokens' must be an integer from 0 to 19"):
        refit(request, other(max_target_tokens=19))
    without_prefix = replace(other(), manifest=replace(SERVED.manifest, supported_options=("beam_size",)))
    with pytest.raises(InvalidRequest, match="'prefix' is not supported"):
        refit(request, without_prefix)


def test_ids_fit_another_vocabulary_or_are_refused() -> None:
    request = DetokenizeRequest("echo", 3, ((9,),), "stable")
    tokenizer = replace(SERVED.manifest.tokenizer, vocabulary_size=9)
    smaller = replace(SERVED, version=4, manifest=replace(SERVED.manifest, tokenizer=tokenizer))
    with pytest.raises(InvalidRequest, match="'ids' must have integers from 0 to 8"):
        refit(request, smaller)
    assert refit(replace(request, ids=((8,),)), smaller).version == 4
    assert refit(TokenizeRequest("echo", 3, ("a",)), smaller) == TokenizeRequest("echo", 4, ("a",))


BODIES = [
    ([], "the body must be an object"),
    ("text", "the body must be an object .* not a string"),
    ({}, "'inputs' must be a text, or a list of at least one"),
    ({"inputs": None}, "'inputs' must be a text"),
    ({"inputs": []}, "'inputs' must be a text"),
    ({"inputs": 5}, "'inputs' must be a text"),
    ({"inputs": ""}, "'inputs' is empty"),
    ({"inputs": " \n\u3000"}, "'inputs' is empty"),
    ({"inputs": ["a", ""]}, r"'inputs\[1\]' is empty"),
    ({"inputs": ["a", 5]}, r"'inputs\[1\]' must be a string, not an integer"),
    ({"inputs": ["a", None]}, r"'inputs\[1\]' must be a string, not null"),
    ({"inputs": ["a"] * 4}, "'inputs' has 4 texts: send at most 3"),
    ({"inputs": "a" * 21}, "'inputs' has 21 characters: send at most 20"),
    ({"inputs": "a\0b"}, "'inputs' has a NUL character at 1: remove it"),
    ({"inputs": "ab\ud800"}, "'inputs' has half of a surrogate pair at 2"),
    ({"inputs": "a", "input": "b"}, "the body has no field 'input': did you mean 'inputs'"),
    ({"inputs": "a", "zzz": 1}, "the body has no field 'zzz': there are inputs, model"),
    ({"inputs": "a", "\ud800": 1}, r"no field '\\ud800'"),
    ({"inputs": "a", "beam_size": 2}, "'beam_size': it belongs into 'parameters'"),
    ({"inputs": "a", "stream": True}, "'stream' is not supported: leave it out"),
    ({"inputs": "a", "stream": 0}, "'stream' is not supported"),
    ({"inputs": "a", "model": ""}, "'model' must be the name of a model"),
    ({"inputs": "a", "model": 5}, "'model' must be the name of a model"),
    ({"inputs": "a", "model": "m" * 257}, "'model' must be the name of a model"),
    ({"inputs": "a", "version": "3"}, "'version' must be the number .* such as 3, without quotes, or a label"),
    ({"inputs": "a", "version": ""}, "'version' must be .* a label"),
    ({"inputs": "a", "version": "a b"}, "'version' must be .* a label"),
    ({"inputs": "a", "version": "l" * 65}, "'version' must be .* a label"),
    ({"inputs": "a", "version": "stable\n"}, "'version' must be .* a label"),
    ({"inputs": "a", "version": 0}, "'version' must be a positive integer, .* not 0"),
    ({"inputs": "a", "version": True}, "'version' must be a positive integer, .* not true"),
    ({"inputs": "a", "version": 1.0}, "'version' must be a positive integer, .* not 1.0"),
    ({"inputs": "a", "version": 2**63}, "'version' must be a positive integer"),
    ({"inputs": "a", "parameters": []}, "'parameters' must be an object"),
]


@pytest.mark.parametrize(("body", "message"), BODIES)
def test_what_is_wrong_is_refused_by_name(body: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as refused:
        parse(body)
    refused.value.message.encode()  # can be sent


def test_refusals_quote_no_text() -> None:
    for body in (
        {"inputs": "secret\0"},
        {"inputs": ["secret" * 10]},
    ):
        with pytest.raises(InvalidRequest) as refused:
            parse(body)
        assert "secret" not in refused.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda each: st.lists(each, max_size=3)
)
NAMES = st.sampled_from(["inputs", "model", "version", "parameters", "stream", "ids", "targets"]) | st.text(max_size=5)
PARAMETER_NAMES = st.sampled_from([field.name for field in fields(GenerationOptions)] + ["align"])


@given(
    st.dictionaries(NAMES, JSON | st.dictionaries(PARAMETER_NAMES, JSON, max_size=4), max_size=4),
)
def test_any_body_is_a_request_or_refused(body: dict[str, Any]) -> None:
    for parse_body in (parse_generate, parse_score, parse_tokenize, parse_detokenize):
        try:
            request = parse_body(body, resolve, SETTINGS)
        except ServiceError as error:
            json.dumps(error.message, ensure_ascii=False).encode()
        else:
            assert request.model == "echo"


def score(body: Any, served: ModelVersion = SERVED) -> ScoreRequest:
    return parse_score(body, lambda model, version: served, SETTINGS)


def test_targets_are_as_many_as_texts() -> None:
    expected = ScoreRequest("echo", 3, ("a",), ("b",))
    for body in ({"inputs": "a", "targets": "b"}, {"inputs": ["a"], "targets": "b"}, {"inputs": "a", "targets": ["b"]}):
        assert score(body) == expected
    assert score({"inputs": "a", "targets": "b", "parameters": None}) == expected
    flags = {"truncate": True, "details": False, "align": True}
    body = {"inputs": ["a", "b"], "targets": ["", " \n"], "version": "stable", "parameters": flags}
    assert score(body) == ScoreRequest("echo", 3, ("a", "b"), ("", " \n"), True, False, True, "stable")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": "a"}, "'targets' must be a text, or a list of at least one"),
        ({"targets": "a"}, "'inputs' must be a text"),
        ({"inputs": "a", "targets": []}, "'targets' must be a text"),
        ({"inputs": "a", "targets": None}, "'targets' must be a text"),
        ({"inputs": "a", "targets": ["a", "b"]}, "'targets' and 'inputs' differ in number, 2 and 1: send one target"),
        ({"inputs": ["a", "b"], "targets": "a"}, "'targets' and 'inputs' differ in number, 1 and 2"),
        ({"inputs": "a", "targets": ["b"] * 4}, "'targets' has 4 texts: send at most 3"),
        ({"inputs": "a", "targets": "b" * 21}, "'targets' has 21 characters: send at most 20"),
        ({"inputs": "a", "targets": ["b\0"]}, r"'targets\[0\]' has a NUL character"),
        ({"inputs": "a", "targets": [5]}, r"'targets\[0\]' must be a string"),
        ({"inputs": "", "targets": ""}, "'inputs' is empty"),
        ({"inputs": "a", "targets": "b", "align": True}, "'align': it belongs into 'parameters'"),
        ({"inputs": "a", "targets": "b", "stream": False}, "the body has no field 'stream'"),
        ({"inputs": "a", "targets": "b", "parameters": []}, "'parameters' must be an object"),
        ({"inputs": "a", "targets": "b", "parameters": 0}, "'parameters' must be an object"),
        ({"inputs": "a", "targets": "b", "parameters": {"align": 1}}, "'align' must be true or false, not 1"),
        ({"inputs": "a", "targets": "b", "parameters": {"beam_size": 1}}, "'parameters' has no field 'beam_size'"),
    ],
)
def test_what_is_wrong_in_a_request_to_score_is_refused(body: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        score(body)


def without(*signatures: str) -> ModelVersion:
    """Version 4, which lacks these."""
    left = {name: each for name, each in SERVED.manifest.signatures.items() if name not in signatures}
    return replace(SERVED, version=4, manifest=replace(SERVED.manifest, signatures=left))


def test_what_a_model_has_no_signature_for_is_refused() -> None:
    pair = {"inputs": "a", "targets": "b"}
    align = {**pair, "parameters": {"align": True}}
    old, plain, ids_only = without("score", "score_ids", "align"), without("align"), without("align", "tokenize")
    with pytest.raises(InvalidRequest, match="version 4 of model 'echo' was exported before there was scoring"):
        score(pair, old)
    with pytest.raises(
        InvalidRequest, match=r"'align' is not supported by version 4 .* has no attention: leave it out"
    ):
        score(align, plain)
    with pytest.raises(InvalidRequest, match=r"'align' is not supported by version 4 .* exported for token ids alone"):
        score(align, ids_only)
    assert score(pair, ids_only).version == 4
    with pytest.raises(InvalidRequest, match="exported before there was scoring"):
        refit(score(pair), old)
    with pytest.raises(InvalidRequest, match="'align' is not supported"):
        refit(score(align), plain)
    assert refit(score(pair), plain) == replace(score(pair), version=4)


def test_tokenize_takes_texts() -> None:
    assert parse_tokenize({"inputs": ["a", "b"]}, resolve, SETTINGS) == TokenizeRequest("echo", 3, ("a", "b"))
    with pytest.raises(InvalidRequest, match="no field 'parameters'"):
        parse_tokenize({"inputs": "a", "parameters": {}}, resolve, SETTINGS)


@pytest.mark.parametrize(("ids", "expected"), [([5, 6], ((5, 6),)), ([[5], [6, 0]], ((5,), (6, 0))), ([[]], ((),))])
def test_detokenize_takes_ids_of_one_text_or_several(ids: Any, expected: Any) -> None:
    assert parse_detokenize({"ids": ids}, resolve, SETTINGS) == DetokenizeRequest("echo", 3, expected)


@pytest.mark.parametrize(
    "ids", [None, [], "5", [5, "6"], [True], [1.0], [-1], [10**9], [[5], 6], [5, [6]], [[5]] * 4, [[[5]]]]
)
def test_detokenize_refuses_what_are_no_ids(ids: Any) -> None:
    with pytest.raises(InvalidRequest, match="'ids' "):
        parse_detokenize({"ids": ids}, resolve, SETTINGS)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("1", 0.001),
        (" 5000 ", 5.0),
        ("0030", 0.03),
        pytest.param("0" * 5000 + "1", 0.001, id="more digits than Python converts"),
    ],
)
def test_the_timeout_is_in_milliseconds(text: str | None, seconds: float | None) -> None:
    assert parse_timeout_ms(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1e3", "five", "5s", "٥", "9" * 11])
def test_other_timeouts_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="X-Request-Timeout-Ms must be a whole number of milliseconds"):
        parse_timeout_ms(text)
