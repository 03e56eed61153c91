"""``POST /v1/score`` on the scripted backend."""

import asyncio
import threading

import pytest

from service.backends.scripted import ScriptedBackend
from service.errors import BackendFailed
from service.transport import schemas
from service.transport.json_body import dump_json
from tests.support.rest_client import rest_server


def score(fields, backend=None, headers=None, **settings):
    """One answer of a new server."""

    async def scenario():
        async with rest_server(backend, **settings) as server:
            return await server.client.post("/v1/score", json=fields, headers=headers)

    return asyncio.run(scenario())


def test_a_pair_is_answered_with_a_list_of_one():
    response = score({"inputs": "the word", "targets": "the word"}, headers={"X-Request-Id": "mine-1"})
    answer = response.json()
    schemas.ScoreResponse.model_validate(answer)
    assert (response.status_code, answer["id"], answer["model_name"], answer["model_version"]) == (
        200,
        "mine-1",
        "echo",
        1,
    )
    (output,) = answer["outputs"]
    assert (output["target_tokens"], output["input_tokens"], output["warnings"]) == (3, 3, [])
    assert output["score"] < 0
    assert output.keys().isdisjoint({"tokens", "input_pieces", "alignment"})


def test_pairs_are_answered_in_their_order_with_what_was_asked():
    body = {
        "inputs": ["the word", "말길 " * 600],
        "targets": ["word", ""],
        "parameters": {"details": True, "truncate": True},
    }
    answer = score(body).json()
    schemas.ScoreResponse.model_validate(answer)
    first, second = answer["outputs"]
    assert [token["piece"] for token in first["tokens"]] == ["▁word", "</s>"]
    assert [token["rank"] for token in first["tokens"]] == [1, 2]
    assert sum(token["log_prob"] for token in first["tokens"]) == first["score"]
    assert [token["piece"] for token in second["tokens"]] == ["</s>"]
    assert second["warnings"][0].startswith("input truncated by ")
    assert second["warnings"][1:] == ["target has no tokens: the score is that of ending at once"]


def test_attention_is_told_as_a_table():
    answer = score({"inputs": "the word", "targets": "word the", "parameters": {"align": True}}).json()
    schemas.ScoreResponse.model_validate(answer)
    (output,) = answer["outputs"]
    assert output["input_pieces"] == ["▁the", "▁word", "</s>"]
    assert output["alignment"] == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_times_are_told_in_milliseconds():
    headers = score({"inputs": "a", "targets": "b"}, ScriptedBackend(delay_s=0.05)).headers
    queue, inference, total = (float(headers[f"x-{name}-time"]) for name in ("queue", "inference", "total"))
    assert 0 <= queue < 50
    assert 50 <= inference <= total < 5000


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"inputs": "a"}, "'targets' must be a text"),
        ({"inputs": "a", "targets": ["b", "c"]}, "send one target for each text"),
        ({"inputs": "a", "targets": "the " * 600}, "'targets[0]' has 600 tokens, and the model scores at most 511"),
        ({"inputs": "the " * 600, "targets": "a"}, "set 'truncate' to true"),
        ({"inputs": "a", "targets": "b", "parameters": {"details": 1}}, "'details' must be true or false, not 1"),
        (
            {"inputs": "the " * 600, "targets": "a", "parameters": {"align": True, "truncate": True}},
            "'inputs[0]' has 89 tokens too many, and only whole texts are aligned",
        ),
    ],
)
def test_what_is_wrong_is_told(fields, says):
    response = score(fields)
    assert (response.status_code, response.json()["error_type"]) == (422, "validation")
    assert says in response.json()["error"]


def test_a_deadline_a_timeout_that_is_none_and_a_failing_model_are_answered_as_for_generating():
    pair = {"inputs": "a", "targets": "b"}
    late = score(pair, ScriptedBackend(delay_s=5), {"X-Request-Timeout-Ms": "30"})
    wrong = score(pair, headers={"X-Request-Timeout-Ms": "soon"})
    failed = score(pair, ScriptedBackend(interrupt=lambda inputs: BackendFailed("the graph broke")))
    assert [(each.status_code, each.json()["error_type"]) for each in (late, wrong, failed)] == [
        (504, "timeout"),
        (422, "validation"),
        (502, "generation"),
    ]


@pytest.mark.parametrize(("inputs", "inline"), [(1, True), (120, False)])
def test_a_large_answer_is_made_in_another_thread_and_written_target_by_target(monkeypatch, inputs, inline):
    threads = []

    def watched(value):
        threads.append(threading.get_ident())
        return dump_json(value)

    monkeypatch.setattr("service.transport.rest.dump_json", watched)
    body = {"inputs": ["the word said so"] * inputs, "targets": ["no one"] * inputs, "parameters": {"details": True}}
    body["parameters"]["align"] = True
    answer = score(body).json()
    schemas.ScoreResponse.model_validate(answer)
    assert len(answer["outputs"]) == inputs
    assert len(threads) == inputs + 1
    assert {thread == threading.get_ident() for thread in threads} == {inline}


def test_a_client_that_hangs_up_frees_its_place():
    async def scenario():
        async with rest_server(ScriptedBackend(slots=1, delay_s=0.5)) as server:
            app = server.client._transport.app
            body = b'{"inputs": "a", "targets": "b"}'
            messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": body, "more_body": False}]
            sent = []

            async def receive():
                return messages.pop()

            async def send(message):
                sent.append(message)

            scope = {"type": "http", "method": "POST", "path": "/v1/score", "headers": [], "query_string": b""}
            await asyncio.wait_for(app(scope, receive, send), 0.4)
            return sent[0]["status"], server.telemetry.render().decode()

    status, metrics = asyncio.run(scenario())
    assert status == 499
    assert 'malgil_e2e_score_latency_seconds_count{model_name="echo",outcome="client_closed"} 1.0' in metrics
