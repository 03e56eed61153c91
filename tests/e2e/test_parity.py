"""One request, one answer: over REST and gRPC, from both backends, whoever tokenizes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from service.transport.proto import malgil_v1_pb2 as messages
from tests.support.model_server_process import QUICK, model_server
from tests.support.server_process import ServerProcess, server_process
from tests.support.tiny_models import CORPUS

MODELS = ("tiny-transformer", "tiny-rnn")
REQUESTS = 500
CLIENTS = 16
SCORE_TOLERANCE = 1e-4  # float32: batches differ, and with them the order of sums


def bodies() -> list[dict[str, Any]]:
    """Sentences in every script, options in every mixture."""
    chance = random.Random(7)
    words = [word for text in CORPUS for word in text.split()] + ["🙂", "ｶﾅ", "한글", "zebra-ζ"]
    asked = []
    for _ in range(REQUESTS):
        beam_size = chance.choice([1, 1, 1, 2, 4])
        parameters = {
            "beam_size": beam_size,
            "num_hypotheses": chance.randint(1, beam_size),
            "max_new_tokens": chance.choice([4, 8, 16]),
            "min_new_tokens": chance.choice([0, 0, 3]),
            "length_penalty": chance.choice([0.0, 1.0, 2.0]),
            "prefix": chance.choice(["", "", "the"]),
            "truncate": True,
        }
        longest = chance.choice([3, 8, 60])  # some are cut
        texts = [" ".join(chance.choices(words, k=chance.randint(1, longest))) for _ in range(chance.randint(1, 2))]
        asked.append({"model": chance.choice(MODELS), "inputs": texts, "parameters": parameters})
    return asked


def over_rest(server: ServerProcess, asked: Sequence[Mapping[str, Any]]) -> list[Any]:
    def ask(body: Mapping[str, Any]) -> Any:
        response = client.post("/v1/generate", json=body)
        assert response.status_code == 200, response.text
        return response.json()["outputs"]

    with httpx.Client(base_url=server.address(), timeout=120.0) as client, ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(ask, asked))


def over_grpc(server: ServerProcess, asked: Sequence[Mapping[str, Any]]) -> list[Any]:
    with grpc.insecure_channel(server.rpc_address()) as channel, ThreadPoolExecutor(CLIENTS) as pool:
        generate = channel.unary_unary(
            "/malgil.v1.GenerationService/Generate",
            messages.GenerateRequest.SerializeToString,
            messages.GenerateResponse.FromString,
        )

        def ask(body: Mapping[str, Any]) -> Any:
            answer = generate(ParseDict(body, messages.GenerateRequest()), timeout=120.0)
            as_rest = MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
            return as_rest["outputs"]

        return list(pool.map(ask, asked))


@pytest.fixture(scope="module")
def reference(artifact_root: Path) -> list[Any]:
    """The answers of the embedded backend over REST, the gateway tokenizing."""
    with server_process("--models", str(artifact_root), MALGIL_TOKENIZE="gateway") as server:
        return over_rest(server, bodies())


@pytest.fixture(params=["embedded", "tf-serving"])
def backend(request: pytest.FixtureRequest, artifact_root: Path) -> Iterator[dict[str, str]]:
    """Settings of a server."""
    if request.param == "embedded":
        yield {"MALGIL_MODELS_FOLDER": str(artifact_root)}
        return
    with model_server(artifact_root, *QUICK) as replica:
        yield {
            "MALGIL_BACKEND": "tf-serving",
            "MALGIL_TF_SERVING_ADDRESSES": replica.address,
            "MALGIL_TF_SERVING_MODELS": ",".join(MODELS),
        }


@pytest.mark.parametrize("tokenize", ["gateway", "graph"])
def test_the_same_requests_get_the_same_answers(tokenize: str, backend: dict[str, str], reference: list[Any]) -> None:
    with server_process(MALGIL_TOKENIZE=tokenize, **backend) as server:
        ways: tuple[Callable[..., list[Any]], ...] = (over_rest, over_grpc)
        for way in ways:
            for body, expected, got in zip(bodies(), reference, way(server, bodies()), strict=True):
                assert _without_scores(got) == _without_scores(expected), (way.__name__, body)
                assert _scores(got) == pytest.approx(_scores(expected), abs=SCORE_TOLERANCE), (way.__name__, body)


def test_the_requests_tell_answers_apart(reference: list[Any]) -> None:
    texts = [output["generated_text"] for outputs in reference for output in outputs]
    assert len(set(texts)) > REQUESTS / 4
    assert sum(bool(output["warnings"]) for outputs in reference for output in outputs) > 10


def _without_scores(outputs: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [
        (
            output["generated_text"],
            output["finish_reason"],
            output["input_tokens"],
            list(output["warnings"]),
            [(each["text"], each["finish_reason"], each["generated_tokens"]) for each in output["hypotheses"]],
        )
        for output in outputs
    ]


def _scores(outputs: Sequence[Mapping[str, Any]]) -> list[float]:
    return [each["score"] for output in outputs for each in output["hypotheses"]]
