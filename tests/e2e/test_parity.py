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
from tests.support.model_server_process import QUICK, UNWARMED, model_server
from tests.support.server_process import ServerProcess, server_process
from tests.support.tiny_models import CORPUS

MODELS = ("tiny-transformer", "tiny-rnn")
REQUESTS = 500
CLIENTS = 16
SCORE_TOLERANCE = 1e-4  # float32: batches differ, and with them the order of sums


def bodies() -> list[dict[str, Any]]:
    """Sentences in every script, options in every mixture; some ask for scores."""
    chance = random.Random(7)
    words = [word for text in CORPUS for word in text.split()] + ["🙂", "ｶﾅ", "한글", "zebra-ζ"]

    def text(most_words: int) -> str:
        return " ".join(chance.choices(words, k=chance.randint(1, most_words)))

    asked: list[dict[str, Any]] = []
    for index in range(REQUESTS):
        body: dict[str, Any] = {"model": chance.choice(MODELS), "inputs": [], "parameters": {"truncate": True}}
        if index % 8 == 7:
            align = index % 16 == 7  # then nothing is cut
            longest = 3 if align else chance.choice([3, 60])
            body["targets"] = [text(3) for _ in range(chance.randint(1, 2))]
            body["parameters"] |= {"details": chance.random() < 0.5, "align": align}
        else:
            longest = chance.choice([3, 8, 60])  # some are cut
            body["parameters"] |= _search(chance) if index % 3 else _sampling(chance)
            body["parameters"] |= {
                "max_new_tokens": chance.choice([4, 8, 16]),
                "min_new_tokens": chance.choice([0, 0, 3]),
                "length_penalty": chance.choice([0.0, 1.0, 2.0]),
                "repetition_penalty": chance.choice([1.0, 1.0, 1.3]),
                "no_repeat_ngram_size": chance.choice([0, 0, 2]),
                "disable_unk": chance.random() < 0.5,
                "prefix": chance.choice(["", "", "the"]),
                "stop": chance.choice([[], [], ["a"], ["는", "e"]]),
            }
        body["inputs"] = [text(longest) for _ in range(len(body.get("targets", "")) or chance.randint(1, 2))]
        asked.append(body)
    return asked


def _search(chance: random.Random) -> dict[str, Any]:
    beam_size = chance.choice([1, 1, 1, 2, 4])
    return {"beam_size": beam_size, "num_hypotheses": chance.randint(1, beam_size)}


def _sampling(chance: random.Random) -> dict[str, Any]:
    return {
        "do_sample": True,
        "num_hypotheses": chance.randint(1, 3),
        "temperature": chance.choice([0.7, 1.0, 1.5]),
        "top_k": chance.choice([0, 0, 5]),
        "top_p": chance.choice([1.0, 0.9]),
        "seed": chance.randrange(2**63),
    }


def over_rest(server: ServerProcess, asked: Sequence[Mapping[str, Any]]) -> list[Any]:
    def ask(body: Mapping[str, Any]) -> Any:
        response = client.post("/v1/score" if "targets" in body else "/v1/generate", json=body)
        assert response.status_code == 200, response.text
        return response.json()["outputs"]

    with httpx.Client(base_url=server.address(), timeout=120.0) as client, ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(ask, asked))


def over_grpc(server: ServerProcess, asked: Sequence[Mapping[str, Any]]) -> list[Any]:
    with grpc.insecure_channel(server.rpc_address()) as channel, ThreadPoolExecutor(CLIENTS) as pool:
        calls = {
            method: channel.unary_unary(
                f"/malgil.v1.GenerationService/{method}", request.SerializeToString, response.FromString
            )
            for method, request, response in (
                ("Generate", messages.GenerateRequest, messages.GenerateResponse),
                ("Score", messages.ScoreRequest, messages.ScoreResponse),
            )
        }

        def ask(body: Mapping[str, Any]) -> Any:
            if "targets" in body:
                answer = calls["Score"](ParseDict(body, messages.ScoreRequest()), timeout=120.0)
            else:
                answer = calls["Generate"](ParseDict(body, messages.GenerateRequest()), timeout=120.0)
            as_rest = MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
            return [_as_rest(output) for output in as_rest["outputs"]]

        return list(pool.map(ask, asked))


def _as_rest(output: dict[str, Any]) -> dict[str, Any]:
    """What protobuf's JSON writes otherwise."""
    if "seed" in output:
        output["seed"] = int(output["seed"])
    if "alignment" in output:
        output["alignment"] = [each["weights"] for each in output["alignment"]]
    return output


@pytest.fixture(scope="module")
def embedded(artifact_root: Path) -> Iterator[ServerProcess]:
    """The embedded backend, the gateway tokenizing."""
    with server_process("--models", str(artifact_root), MALGIL_TOKENIZE="gateway") as server:
        yield server


@pytest.fixture(scope="module")
def reference(embedded: ServerProcess) -> list[Any]:
    """Its answers over REST."""
    return over_rest(embedded, bodies())


@pytest.fixture(scope="module")
def tf_serving(artifact_root: Path) -> Iterator[dict[str, str]]:
    """Settings of a server before a model server."""
    with model_server(artifact_root, *QUICK, UNWARMED) as replica:
        yield {
            "MALGIL_BACKEND": "tf-serving",
            "MALGIL_TF_SERVING_ADDRESSES": replica.address,
            "MALGIL_TF_SERVING_MODELS": ",".join(MODELS),
        }


def assert_same_answers(server: ServerProcess, ways: Sequence[Callable[..., list[Any]]], reference: list[Any]) -> None:
    for way in ways:
        for body, expected, got in zip(bodies(), reference, way(server, bodies()), strict=True):
            assert _without_scores(got) == _without_scores(expected), (way.__name__, body)
            close = pytest.approx(_scores(expected), rel=3e-5, abs=SCORE_TOLERANCE)
            assert _scores(got) == close, (way.__name__, body)


def test_grpc_answers_as_rest(embedded: ServerProcess, reference: list[Any]) -> None:
    assert_same_answers(embedded, [over_grpc], reference)


def test_the_embedded_graph_tokenizes_to_the_same_answers(artifact_root: Path, reference: list[Any]) -> None:
    with server_process("--models", str(artifact_root), MALGIL_TOKENIZE="graph") as server:
        assert_same_answers(server, [over_rest], reference)


@pytest.mark.parametrize("tokenize", ["gateway", "graph"])
def test_tf_serving_gives_the_same_answers(tokenize: str, tf_serving: dict[str, str], reference: list[Any]) -> None:
    with server_process(MALGIL_TOKENIZE=tokenize, **tf_serving) as server:
        assert_same_answers(server, [over_rest, over_grpc], reference)


def test_the_requests_tell_answers_apart(reference: list[Any]) -> None:
    every = [output for outputs in reference for output in outputs]
    texts = [output["generated_text"] for output in every if "generated_text" in output]
    assert len(set(texts)) > REQUESTS / 4
    assert sum(bool(output["warnings"]) for output in every) > 10
    assert sum(output.get("finish_reason") == "stop_sequence" for output in every) > 10
    assert sum("seed" in output for output in every) > REQUESTS / 4
    assert sum("alignment" in output for output in every) > REQUESTS / 20
    assert len({output["target_tokens"] for output in every if "target_tokens" in output}) > 5


def _without_scores(outputs: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [
        (
            output["input_tokens"],
            list(output["warnings"]),
            [output.get(name) for name in ("generated_text", "finish_reason", "seed", "target_tokens")],
            list(output.get("input_pieces", ())),
            [(token["id"], token["piece"]) for token in output.get("tokens", ())],
            [(each["text"], each["finish_reason"], each["generated_tokens"]) for each in output.get("hypotheses", ())],
        )
        for output in outputs
    ]


def _scores(outputs: Sequence[Mapping[str, Any]]) -> list[float]:
    scores = []
    for output in outputs:
        scores.append(output["score"])
        scores += [each["score"] for each in output.get("hypotheses", ())]
        scores += [token["log_prob"] for token in output.get("tokens", ())]
        scores += [weight for weights in output.get("alignment", ()) for weight in weights]
    return scores
