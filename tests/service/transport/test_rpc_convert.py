"""Messages have REST's names and values, both ways."""

import asyncio
from dataclasses import replace

import pytest
from google.protobuf import json_format

from model_export.contract import Limits, TokenizerInfo
from service.backend import ModelVersion, VersionState
from service.backends.scripted import ScriptedBackend, scripted_manifest
from service.engine import ModelStatus
from service.errors import InvalidRequest
from service.transport import schemas
from service.transport.proto import malgil_v1_pb2 as messages
from service.transport.rpc_convert import fields, model
from service.validation.options import PARAMETERS
from service.validation.requests import SCORE_PARAMETERS
from tests.support.rest_client import rest_server
from tests.support.rpc_client import rpc_server


def names(kind):
    return {field.name for field in kind.DESCRIPTOR.fields}


@pytest.mark.parametrize(
    ("kind", "same"),
    [
        (messages.Parameters, schemas.GenerateParameters),
        (messages.GenerateResponse, schemas.GenerateResponse),
        (messages.Output, schemas.Output),
        (messages.Hypothesis, schemas.Hypothesis),
        (messages.Token, schemas.Token),
        (messages.ScoreParameters, schemas.ScoreParameters),
        (messages.ScoreResponse, schemas.ScoreResponse),
        (messages.ScoredTarget, schemas.ScoredTarget),
        (messages.TargetToken, schemas.TargetToken),
        (messages.TokenizeResponse, schemas.TokenizeResponse),
        (messages.Tokens, schemas.Tokens),
        (messages.DetokenizeResponse, schemas.DetokenizeResponse),
        (messages.ListModelsResponse, schemas.ModelList),
        (messages.ModelInfo, schemas.ModelInfo),
        (messages.ModelVersionInfo, schemas.ModelVersionInfo),
        (messages.LabelInfo, schemas.LabelInfo),
        (messages.WeightedVersion, schemas.WeightedVersion),
        (messages.RefusedLabel, schemas.RefusedLabel),
    ],
    ids=lambda kind: kind.__name__,
)
def test_names_are_those_of_rest(kind, same):
    assert names(kind) == set(same.model_fields)


@pytest.mark.parametrize(
    ("kind", "same"),
    [
        (messages.GenerateRequest, schemas.GenerateRequest),
        (messages.ScoreRequest, schemas.ScoreRequest),
        (messages.TokenizeRequest, schemas.TokenizeRequest),
        (messages.DetokenizeRequest, schemas.DetokenizeRequest),
    ],
    ids=lambda kind: kind.__name__,
)
def test_requests_have_a_field_more_for_labels(kind, same):
    assert names(kind) == set(same.model_fields) - {"stream"} | {"label"}


def test_limits_and_tokenizer_are_those_of_the_manifest():
    assert names(messages.Limits) == set(Limits.__dataclass_fields__)
    assert names(messages.Tokenizer) == set(TokenizerInfo.__dataclass_fields__)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_fields_are_what_is_set():
    """Zero, false and the empty text are values: validation judges them."""
    values = {
        "inputs": ["a", ""],
        "model": "",
        "version": 0,
        "parameters": {
            "beam_size": 0,
            "length_penalty": 1.1,
            "seed": 2**62,
            "truncate": False,
            "prefix": "",
            "stop": ["", "b"],
        },
    }
    assert fields(messages.GenerateRequest(**values).SerializeToString(), messages.GenerateRequest) == values
    assert fields(b"", messages.GenerateRequest) == {}
    empty = messages.GenerateRequest(parameters={})
    assert fields(empty.SerializeToString(), messages.GenerateRequest) == {"parameters": {}}


def test_every_parameter_can_be_set():
    for kind, parameters in ((messages.Parameters, PARAMETERS), (messages.ScoreParameters, SCORE_PARAMETERS)):
        assert names(kind) == set(parameters)
        for field in kind.DESCRIPTOR.fields:
            assert field.is_repeated or field.has_presence, field.name


def test_a_label_is_a_version():
    for kind in (
        messages.GenerateRequest,
        messages.ScoreRequest,
        messages.TokenizeRequest,
        messages.DetokenizeRequest,
    ):
        assert fields(kind(label="stable").SerializeToString(), kind) == {"version": "stable"}


def test_ids_are_lists_of_lists():
    request = messages.DetokenizeRequest(ids=[{"ids": [1, 2]}, {}, {"ids": [-3]}])
    assert fields(request.SerializeToString(), messages.DetokenizeRequest) == {"ids": [[1, 2], [], [-3]]}


@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [
        (messages.TokenizeRequest, b"\x78\x01", "the message has no field 15: there are inputs = 1, model = 2"),
        (messages.GenerateRequest, b"\x2a\x03\x98\x06\x01", "'parameters' has no field 99: there are beam_size = 1"),
        (messages.DetokenizeRequest, b"\x0a\x00\x0a\x02\x78\x01", "'ids' has no field 15: there are ids = 1"),
        (messages.TokenizeRequest, b"\x08\x01", "the message has a field 1 of another type"),
        (messages.TokenizeRequest, b"\x0a\x05a", "no malgil.v1.TokenizeRequest"),
        (messages.TokenizeRequest, b"\x0a\x02\xed\xa0\x80", "no malgil.v1.TokenizeRequest"),
    ],
)
def test_what_is_no_such_message_is_refused(kind, data, says):
    with pytest.raises(InvalidRequest) as caught:
        fields(data, kind)
    assert says in caught.value.message


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "values"),
    [
        (
            "Generate",
            "/v1/generate",
            {
                "model": "b",
                "inputs": ["the word says no", "말길 " * 600],
                "parameters": {"beam_size": 3, "num_hypotheses": 2, "details": True, "truncate": True},
            },
        ),
        (
            "Generate",
            "/v1/generate",
            {
                "model": "b",
                "inputs": ["the word says no"] * 2,
                "parameters": {
                    "do_sample": True,
                    "num_hypotheses": 3,
                    "seed": 2**63 - 1,
                    "temperature": 0.7,
                    "top_k": 50,
                    "top_p": 0.9,
                    "repetition_penalty": 1.2,
                    "no_repeat_ngram_size": 2,
                    "disable_unk": True,
                    "stop": ["no", "。"],
                    "details": True,
                },
            },
        ),
        (
            "Score",
            "/v1/score",
            {
                "model": "b",
                "inputs": ["the word", "말길"],
                "targets": ["no", ""],
                "parameters": {"details": True, "align": True, "truncate": True},
            },
        ),
        ("Tokenize", "/v1/tokenize", {"model": "b", "inputs": ["the word", "é"]}),
        ("Detokenize", "/v1/detokenize", {"model": "b", "ids": [[260, 261], [262]]}),
        ("ListModels", "/v1/models", {}),
        ("GetModel", "/v1/models/b", {"name": "b"}),
    ],
)
def test_answers_are_those_of_rest(tmp_path, method, path, values):
    labels = tmp_path / "labels.yaml"
    labels.write_text("b: {stable: 1, next: {1: 1, 7: 2}}", "utf-8")
    told = {"x-request-id": "mine"}

    def backend():
        return ScriptedBackend({"a": [1], "b": [1, 2]})

    async def over_rest():
        async with rest_server(backend(), labels_file=labels) as server:
            if path.startswith("/v1/models"):
                return await server.client.get(path)
            return await server.client.post(path, json=values, headers=told)

    async def over_grpc():
        request = {name: value for name, value in values.items() if name != "ids"}
        if "ids" in values:
            request["ids"] = [{"ids": each} for each in values["ids"]]
        message = getattr(messages, f"{method}Request")(**request)
        async with rpc_server(backend(), labels_file=labels) as server:
            return await server.call(method, message, metadata=tuple(told.items()))

    expected, answer = asyncio.run(over_rest()).json(), asyncio.run(over_grpc())
    assert answer.ByteSize() > 0
    for output in expected.get("outputs", ()):
        if "alignment" in output:
            output["alignment"] = [{"weights": weights} for weights in output["alignment"]]
    assert json_format.ParseDict(expected, type(answer)()) == answer


def test_a_training_report_of_any_shape_is_told():
    provenance = {"steps": 7, "metrics": {"bleu": 31.5, "loss": float("inf")}, "data": ["a.tsv", None, {"lines": 2}]}
    manifest = replace(scripted_manifest("echo"), provenance=provenance)
    version = ModelVersion("echo", 1, VersionState.READY, None, manifest, b"", {"127.0.0.1:8500": "AVAILABLE"})
    told = messages.ModelInfo.FromString(model(ModelStatus("echo", None, (version,), ())))
    assert not told.HasField("version")
    assert told.versions[0].replicas == {"127.0.0.1:8500": "AVAILABLE"}
    assert json_format.MessageToDict(told.versions[0].provenance) == {
        "steps": 7,
        "metrics": {"bleu": 31.5, "loss": None},
        "data": ["a.tsv", None, {"lines": 2}],
    }
