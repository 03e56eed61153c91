"""The whole of it, as users run it: a process with real artifacts, over real connections.

The tests share one server and run in their order; the last stops it.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import socket
import time

import grpc
import grpc.aio
import httpx
import pytest
from google.protobuf import json_format

from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET, Manifest
from service.transport.proto import malgil_v1_pb2 as messages
from tests.support.server_process import server_process

GENERATE = "/malgil.v1.GenerationService/Generate"
HEADER_TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def models(artifact_root, tmp_path_factory):
    """Two models; of one a newer version that breaks its word."""
    root = tmp_path_factory.mktemp("served")
    for name in ("tiny-transformer", "tiny-rnn"):
        shutil.copytree(artifact_root / name / "1", root / name / "1")
    shutil.copytree(artifact_root / "tiny-rnn" / "1", root / "tiny-rnn" / "2")
    path = root / "tiny-rnn" / "2" / ASSETS_FOLDER / MANIFEST_ASSET
    manifest = json.loads(path.read_text())
    manifest["certificate"]["cases"][0]["scores"][0] += 1.0
    path.write_text(json.dumps(manifest))
    return root


@pytest.fixture(scope="module")
def server(models):
    with server_process("--models", str(models), MALGIL_HEADER_TIMEOUT_S=str(HEADER_TIMEOUT_S)) as server:
        yield server


@pytest.fixture(scope="module")
def address(server):
    return server.address()


@pytest.fixture(scope="module")
def client(address):
    with httpx.Client(base_url=address, timeout=120.0) as client:
        yield client


@pytest.fixture(scope="module")
def cases(models):
    """The certificate of ``tiny-transformer``: texts with the answers of the model as it was trained."""
    path = models / "tiny-transformer" / "1" / ASSETS_FOLDER / MANIFEST_ASSET
    return Manifest.from_json(path.read_text()).certificate.cases


def test_it_says_where_it_listens_and_what_it_serves(server, address):
    (line,) = server.output
    assert line == (
        f"Malgil serves tiny-rnn (version 1), tiny-transformer (version 1) on {address}, documented at {address}/docs, "
        f"and over gRPC on {server.rpc_address()}\n"
    )
    assert all(json.loads(line)["event"] for line in server.log)  # nothing but JSON lines, whatever TensorFlow says


def test_golden_texts_get_the_answers_of_the_trained_model(client, cases):
    asked = [case for case in cases if not case.prefix_ids]
    assert len(asked) >= 16
    for case in asked:
        body = {"model": "tiny-transformer", "inputs": case.text, "parameters": dict(case.options)}
        response = client.post("/v1/generate", json=body)
        assert response.status_code == 200, response.text
        (output,) = response.json()["outputs"]
        assert tuple(each["text"] for each in output["hypotheses"]) == case.sentences, case.name
        assert output["input_tokens"] == len(case.source_ids)


def test_both_transports_give_the_same_answers(client, server, cases):
    with grpc.insecure_channel(server.rpc_address()) as channel:
        generate = channel.unary_unary(
            GENERATE, messages.GenerateRequest.SerializeToString, messages.GenerateResponse.FromString
        )
        for case in cases:
            if not case.prefix_ids:
                fields = {"model": "tiny-transformer", "inputs": [case.text], "parameters": dict(case.options)}
                (output,) = client.post("/v1/generate", json=fields).json()["outputs"]
                (message,) = generate(messages.GenerateRequest(**fields)).outputs
                as_json = json_format.MessageToDict(message, preserving_proto_field_name=True)
                as_json |= {"seed": int(as_json["seed"])} if "seed" in as_json else {}  # protobuf writes it as a string
                assert as_json == {name: value for name, value in output.items() if value != []}, case.name


def test_a_version_that_breaks_its_word_is_refused_and_the_older_one_answers(client, server):
    response = client.get("/v1/models/tiny-rnn").json()
    assert response["version"] == 1
    newest, older = response["versions"]
    assert (newest["version"], newest["state"]) == (2, "refused")
    assert newest["reason"].startswith("it fails its certificate: generate_ids, case ")
    assert (older["version"], older["state"]) == (1, "ready")
    events = [json.loads(line) for line in server.log]
    (refused,) = (event for event in events if event["event"] == "model version refused")
    assert (refused["model_name"], refused["model_version"]) == ("tiny-rnn", 2)
    assert refused["reason"] == newest["reason"]
    response = client.post("/v1/generate", json={"model": "tiny-rnn", "inputs": "a cat"})
    assert (response.status_code, response.json()["model_version"]) == (200, 1)
    response = client.post("/v1/generate", json={"model": "tiny-rnn", "version": 2, "inputs": "a cat"})
    assert (response.status_code, response.json()["error_type"]) == (404, "not_found")


def test_two_hundred_mixed_requests_at_once_get_what_each_gets_alone(address):
    chance = random.Random(2)
    words = ["cat", "안녕하세요", "le tapis", "🙂", "sea", "今日は", "a dog ran", "where?"]
    bodies = []
    for _ in range(200):
        beam_size = chance.choice([1, 1, 2, 4])
        texts = [" ".join(chance.choices(words, k=chance.randint(1, 6))) for _ in range(chance.choice([1, 1, 1, 3]))]
        parameters = {
            "beam_size": beam_size,
            "num_hypotheses": chance.randint(1, beam_size),
            "max_new_tokens": chance.randint(1, 30),
            "length_penalty": chance.choice([0.0, 1.0, 2.0]),
            "details": chance.random() < 0.3,
        }
        model = chance.choice(["tiny-transformer", "tiny-rnn"])
        bodies.append({"model": model, "inputs": texts, "parameters": parameters})

    async def answers(at_once):
        limits = httpx.Limits(max_connections=at_once)
        async with httpx.AsyncClient(base_url=address, timeout=120.0, limits=limits) as client:
            if at_once == 1:
                return [await client.post("/v1/generate", json=body) for body in bodies]
            return await asyncio.gather(*(client.post("/v1/generate", json=body) for body in bodies))

    together, alone = asyncio.run(answers(200)), asyncio.run(answers(1))
    for body, one, other in zip(bodies, together, alone, strict=True):
        assert one.status_code == other.status_code == 200, (body, one.text)
        assert len(one.json()["outputs"]) == len(body["inputs"])
        for output, expected in zip(one.json()["outputs"], other.json()["outputs"], strict=True):
            assert _texts(output) == _texts(expected), body
            assert _scores(output) == pytest.approx(_scores(expected), abs=1e-4)


def _texts(output):
    return [(each["text"], each["finish_reason"], each["generated_tokens"]) for each in output["hypotheses"]]


def _scores(output):
    return [each["score"] for each in output["hypotheses"]]


def test_metrics_count_what_was_answered(client):
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in metrics.text.splitlines() if not line.startswith("#"))
    answered = sum(float(value) for name, value in lines.items() if name.startswith("malgil_request_success_total"))
    assert answered >= 400
    assert float(lines['malgil_batch_size_bucket{le="1.0",model_name="tiny-transformer"}']) < float(
        lines['malgil_batch_size_count{model_name="tiny-transformer"}']
    ), "no two requests ever shared a batch"


def test_hostile_bodies_get_an_answer_and_the_server_lives_on(client):
    for body, status in (
        (b"[" * 500_000, 422),
        (b"{" * 10, 422),
        (b'{"inputs": "\xff\xfe"}', 422),
        (b'{"inputs": "a", "inputs": "b"}', 422),
        (b'{"inputs": "\\ud800"}', 422),
        (b'{"inputs": "a\\u0000b"}', 422),
        (b'{"inputs": "a", "version": ' + b"1" * 4000 + b"}", 422),
        (b'{"inputs": "a", "parameters": {"length_penalty": 1e999}}', 422),
        (b'{"inputs": "a", "model": "../../etc"}', 404),
        (b'{"inputs": "' + b"a" * 2_000_000 + b'"}', 413),
    ):
        response = client.post("/v1/generate", content=body)
        assert response.status_code == status, (body[:60], response.text)
        assert response.json().keys() == {"error", "error_type"}
    assert client.get("/readyz").status_code == 200


def test_an_endless_body_is_cut_off(client):
    def chunks():
        for _ in range(100):
            yield b" " * 100_000

    response = client.post("/v1/generate", content=chunks())
    assert response.status_code == 413
    assert response.json()["error_type"] == "too_large"


def test_a_silent_connection_is_closed(address):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        started = time.monotonic()
        assert connection.recv(1) == b""
        assert HEADER_TIMEOUT_S / 2 < time.monotonic() - started < HEADER_TIMEOUT_S + 5


def test_a_client_that_hangs_up_is_counted_and_frees_its_place(address, client):
    body = json.dumps({"model": "tiny-transformer", "inputs": ["a cat"] * 100, "parameters": {"beam_size": 6}}).encode()
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v1/generate HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    end = time.monotonic() + 10
    while 'malgil_request_failure_total{error_type="client_closed"} 1.0' not in client.get("/metrics").text:
        assert time.monotonic() < end, "the hang-up was not noticed"
        time.sleep(0.05)


def test_sigterm_answers_what_was_accepted_and_exits_0(server, address):
    """Under load: every request gets its answer, or is told that the server is stopping, or finds nobody there."""
    body = {"model": "tiny-transformer", "inputs": ["a dog ran to the sea"] * 8, "parameters": {"beam_size": 4}}

    async def load():
        outcomes, codes = [], []
        request = messages.GenerateRequest(**body).SerializeToString()

        async def rpc_loop(channel):
            while True:
                try:
                    await channel.unary_unary(GENERATE)(request)
                except grpc.aio.AioRpcError as error:
                    codes.append(error.code().name)
                    return
                codes.append("OK")

        async def client_loop(client):
            while True:
                try:
                    response = await client.post("/v1/generate", json=body)
                except httpx.ConnectError:
                    return
                outcomes.append(response.status_code)
                if response.status_code != 200:
                    return

        async with (
            httpx.AsyncClient(base_url=address, timeout=60.0) as client,
            grpc.aio.insecure_channel(server.rpc_address()) as channel,
        ):
            loops = [asyncio.create_task(client_loop(client)) for _ in range(4)]
            loops += [asyncio.create_task(rpc_loop(channel)) for _ in range(4)]
            while len(outcomes) < 8 or len(codes) < 8:
                await asyncio.sleep(0.02)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*loops)
        return outcomes, codes

    outcomes, codes = asyncio.run(load())
    assert server.wait() == 0
    assert outcomes.count(200) >= 8
    assert set(outcomes) <= {200, 503}
    assert codes.count("OK") >= 8
    assert set(codes) == {"OK", "UNAVAILABLE"}
    assert [json.loads(line)["event"] for line in server.log][-1] == "stopped"
