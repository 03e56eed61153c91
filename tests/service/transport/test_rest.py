"""REST on the scripted backend: which status, which envelope, which headers."""

import asyncio
import json
import re
import threading
from dataclasses import replace

import httpx
import pytest

from service.backend import VersionState
from service.backends.scripted import ScriptedBackend
from service.engine.answers import assemble
from service.errors import ERROR_TABLE, BackendFailed, BackendUnavailable, ClientClosed, DeadlineExceeded, ServiceError
from service.generation import Hypothesis
from service.telemetry import Telemetry
from service.transport import schemas
from service.transport.call import CallMiddleware
from service.transport.json_body import dump_json
from tests.support.rest_client import rest_server


def ask(method, path, backend=None, headers=None, start=True, settings=None, **body):
    """One answer of a new server."""

    async def scenario():
        async with rest_server(backend, start=start, **(settings or {})) as server:
            return await server.client.request(method, path, headers=headers, **body)

    return asyncio.run(scenario())


def generate(fields, backend=None, **options):
    return ask("POST", "/v1/generate", backend, json=fields, **options)


def error_of(response):
    """Status and type of an error, whose envelope is checked."""
    assert response.headers["content-type"] == "application/json"
    fields = response.json()
    assert fields.keys() == {"error", "error_type"}
    assert fields["error"]
    return response.status_code, fields["error_type"]


# --- answers ----------------------------------------------------------------------------------------------------------


def test_a_text_is_answered_with_a_list_of_one():
    response = generate({"inputs": "말길 is the word"}, headers={"X-Request-Id": "mine-1"})
    assert response.status_code == 200
    answer = response.json()
    schemas.GenerateResponse.model_validate(answer)
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine-1", "echo", 1)
    (output,) = answer["outputs"]
    assert output["generated_text"] == "말길 is the word"
    assert output["finish_reason"] == "eos_token"
    assert output["warnings"] == []
    (hypothesis,) = output["hypotheses"]
    assert hypothesis["text"] == output["generated_text"]
    assert "tokens" not in hypothesis


def test_texts_are_answered_in_their_order():
    texts = ["one", "no two", "이 가 는", "the word says no"]
    outputs = generate({"inputs": texts, "model": "echo", "version": 1}).json()["outputs"]
    assert [output["generated_text"] for output in outputs] == texts


def test_hypotheses_come_best_first_with_their_tokens():
    parameters = {"beam_size": 4, "num_hypotheses": 3, "details": True, "max_new_tokens": 3}
    answer = generate({"inputs": "the word says no", "parameters": parameters}).json()
    schemas.GenerateResponse.model_validate(answer)
    hypotheses = answer["outputs"][0]["hypotheses"]
    assert len(hypotheses) == 3
    scores = [hypothesis["normalized_score"] for hypothesis in hypotheses]
    assert scores == sorted(scores, reverse=True)
    for hypothesis in hypotheses:
        assert len(hypothesis["tokens"]) == hypothesis["generated_tokens"] <= 3
        assert sum(token["log_prob"] for token in hypothesis["tokens"]) == pytest.approx(hypothesis["score"])


def test_samples_have_the_seed_by_which_they_come_again():
    body = {"inputs": ["the word says no 말길 좋다"] * 2, "parameters": {"do_sample": True, "num_hypotheses": 3}}

    async def scenario():
        async with rest_server() as server:
            answer = (await server.client.post("/v1/generate", json=body)).json()
            schemas.GenerateResponse.model_validate(answer)
            first, second = answer["outputs"]
            alone = {"inputs": body["inputs"][1], "parameters": {**body["parameters"], "seed": second["seed"]}}
            again = (await server.client.post("/v1/generate", json=alone)).json()
            return first, second, again["outputs"]

    first, second, again = asyncio.run(scenario())
    assert len(first["hypotheses"]) == 3
    assert second["seed"] == first["seed"] + 1 < 2**53
    assert again == [second]


def test_what_is_not_sampled_has_no_seed():
    assert "seed" not in generate({"inputs": "the word", "parameters": {"seed": 7}}).json()["outputs"][0]


def test_a_text_ends_before_a_stop_string():
    answer = generate({"inputs": "the word 좋다", "parameters": {"stop": ["no", "좋"], "details": True}}).json()
    schemas.GenerateResponse.model_validate(answer)
    (output,) = answer["outputs"]
    assert (output["generated_text"], output["finish_reason"]) == ("the word ", "stop_sequence")
    (hypothesis,) = output["hypotheses"]
    assert [token["piece"] for token in hypothesis["tokens"]] == ["▁the", "▁word", "▁", "좋"]
    assert output["generated_tokens"] == 4
    assert output["score"] == sum(token["log_prob"] for token in hypothesis["tokens"])


def test_answers_warn_of_what_they_do_not_show():
    parameters = {"max_new_tokens": 1, "truncate": True, "top_k": 3, "temperature": 0.5}
    (output,) = generate({"inputs": "the " * 600, "parameters": parameters}).json()["outputs"]
    assert output["warnings"] == [
        "input truncated by 89 tokens",
        "'temperature', 'top_k' changed nothing, because 'do_sample' is false",
        "output cut by 'max_new_tokens', 1",
    ]


def test_sampling_with_beams_is_a_contradiction():
    response = generate({"inputs": "a", "parameters": {"do_sample": True, "beam_size": 2}})
    assert error_of(response) == (422, "validation")
    assert "sampling and beams exclude each other" in response.json()["error"]


def test_answers_are_utf8_and_not_escaped():
    assert "말길" in generate({"inputs": "말길"}).content.decode()


def test_times_are_told_in_milliseconds():
    headers = generate({"inputs": "a"}, ScriptedBackend(delay_s=0.05)).headers
    queue, inference, total = (float(headers[f"x-{name}-time"]) for name in ("queue", "inference", "total"))
    assert 0 <= queue < 50
    assert 50 <= inference <= total < 5000


def test_tokens_are_those_the_model_reads_and_make_the_text_again():
    tokens = ask("POST", "/v1/tokenize", json={"inputs": ["the word", "é"]})
    schemas.TokenizeResponse.model_validate(tokens.json())
    ids = [output["ids"] for output in tokens.json()["outputs"]]
    assert [len(output["pieces"]) for output in tokens.json()["outputs"]] == list(map(len, ids))
    texts = ask("POST", "/v1/detokenize", json={"ids": ids})
    schemas.DetokenizeResponse.model_validate(texts.json())
    assert texts.json()["texts"] == ["the word", "é"]


def test_texts_that_normalization_makes_very_long_are_refused_and_hold_nobody_up():
    """U+FDFA is 3 bytes of a body and becomes 18 characters."""
    lags = []

    async def watch():
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            await asyncio.sleep(0.01)
            lags.append(loop.time() - started)

    async def scenario():
        async with rest_server() as server:
            watching = asyncio.create_task(watch())
            response = await server.client.post("/v1/tokenize", content=json.dumps(body, ensure_ascii=False).encode())
            watching.cancel()
            return response

    body = {"inputs": ["\ufdfa" * 99_999] * 3}
    response = asyncio.run(scenario())
    assert error_of(response) == (422, "validation")
    assert re.fullmatch(
        r"'inputs' have \d{7} tokens, and one call takes at most 100000: send fewer or shorter texts",
        response.json()["error"],
    )
    assert max(lags) < 2


@pytest.mark.parametrize(("inputs", "inline"), [(1, True), (40, False)])
def test_a_large_answer_is_made_in_another_thread_and_written_text_by_text(monkeypatch, inputs, inline):
    """There is nothing else that keeps the probes answering meanwhile: the encoder holds the interpreter's lock."""
    threads, sizes = [], []

    def watched(function):
        def wrapper(*arguments):
            threads.append(threading.get_ident())
            result = function(*arguments)
            sizes.append(len(result))
            return result

        return wrapper

    monkeypatch.setattr("service.engine.runs.assemble", watched(assemble))
    monkeypatch.setattr("service.transport.rest.dump_json", watched(dump_json))
    texts = [f"the word {number} said so" for number in range(inputs)]
    parameters = {"beam_size": 4, "num_hypotheses": 4, "details": True}
    response = generate({"inputs": texts, "parameters": parameters})
    answer = response.json()
    schemas.GenerateResponse.model_validate(answer)
    assert [output["generated_text"] for output in answer["outputs"]] == texts
    assert len(threads) == 1 + inputs + 1
    assert {thread == threading.get_ident() for thread in threads} == {inline}
    assert max(sizes[1:]) < 5000


def test_models_are_told_with_their_versions_and_limits():
    async def scenario():
        async with rest_server(ScriptedBackend({"b": [1, 3], "a": [2]})) as server:
            return [await server.client.get(f"/v1/models{path}") for path in ("", "/b", "/c")]

    listed, one, unknown = asyncio.run(scenario())
    schemas.ModelList.model_validate(listed.json())
    assert [(model["name"], model["version"]) for model in listed.json()["models"]] == [("a", 2), ("b", 3)]
    assert one.json() == listed.json()["models"][1]
    assert [version["version"] for version in one.json()["versions"]] == [3, 1]
    assert one.json()["versions"][0]["limits"]["max_beam_size"] == 8
    assert error_of(unknown) == (404, "not_found")


def test_a_label_is_answered_and_told(tmp_path):
    labels = tmp_path / "labels.yaml"
    labels.write_text("echo: {stable: 1, next: 3, default: {2: 1, 1: 0}}", "utf-8")

    async def scenario():
        async with rest_server(ScriptedBackend({"echo": [1, 2]}), labels_file=labels, version_poll_s=0.01) as server:
            for body in ({"version": "stable"}, {}, {"version": "next"}, {"version": "nxt"}):
                answers.append(await server.client.post("/v1/generate", json={"inputs": "a", **body}))
            answers.append(await server.client.get("/v1/models/echo"))
            labels.write_text("echo: [", "utf-8")
            while server.engine.labels_error is None:
                await asyncio.sleep(0.01)
            answers.append(await server.client.get("/v1/models"))

    answers = []
    asyncio.run(scenario())
    stable, default, following, unknown, told, listed = answers
    assert (stable.json()["model_version"], default.json()["model_version"]) == (1, 2)
    assert error_of(following) == (503, "unavailable")
    assert error_of(unknown) == (404, "not_found")
    assert "no label 'nxt', but stable, next, default" in unknown.json()["error"]
    schemas.ModelInfo.model_validate(told.json())
    assert told.json()["version"] == 2
    assert told.json()["labels"] == [
        {"label": "stable", "versions": [{"version": 1, "weight": 1}]},
        {
            "label": "next",
            "versions": [],
            "refused": {"versions": [{"version": 3, "weight": 1}], "reason": "there is no version 3"},
        },
        {"label": "default", "versions": [{"version": 2, "weight": 1}]},
    ]
    schemas.ModelList.model_validate(listed.json())
    assert "line 1" in listed.json()["labels_error"]
    assert listed.json()["models"] == [told.json()]


def test_a_server_waits_for_the_default_version(tmp_path):
    labels = tmp_path / "labels.yaml"
    labels.write_text("echo: {default: 1}", "utf-8")

    async def scenario():
        backend = ScriptedBackend({"echo": [1, 2]})
        async with rest_server(backend, labels_file=labels) as server:
            newer, older = backend.versions()
            backend.set_versions([newer, replace(older, state=VersionState.LOADING)])
            return await server.client.get("/readyz"), await server.client.post("/v1/generate", json={"inputs": "a"})

    for answer in asyncio.run(scenario()):
        assert error_of(answer) == (503, "unavailable")
        assert "stopping" not in answer.json()["error"]


# --- ids and errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["mine", "a-b_c.d:e@f/g+h=", "x" * 128])
def test_a_safe_request_id_is_echoed(given):
    assert ask("GET", "/livez", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", " ", "a b", "x" * 129, 'a"b', "a\tb", "é".encode(), "{}", "a\\nb"])
def test_for_any_other_a_new_one_is_made(given):
    made = ask("GET", "/livez", headers={"x-request-id": given}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", (404, "not_found")),
        ("GET", "/v1", (404, "not_found")),
        ("POST", "/v1/generate/", (404, "not_found")),
        ("GET", "/v1/models/", (404, "not_found")),
        ("GET", "/v1/models/%7Bname%7D", (404, "not_found")),
        ("GET", "/docs/../secret", (404, "not_found")),
        ("GET", "/docs/main.py", (404, "not_found")),
        ("GET", "/v1/generate", (405, "validation")),
        ("DELETE", "/v1/models/echo", (405, "validation")),
        ("POST", "/readyz", (405, "validation")),
    ],
)
def test_what_is_no_route_is_told_in_the_envelope(method, path, expected):
    response = ask(method, path)
    assert error_of(response) == expected
    assert ("allow" in response.headers) == (expected[0] == 405)
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BackendFailed("the graph broke"), (502, "generation")),
        (BackendUnavailable("nobody there"), (503, "unavailable")),
        (DeadlineExceeded("too slow"), (504, "timeout")),
    ],
)
def test_errors_of_the_backend_go_through_the_table(error, expected):
    response = generate({"inputs": "a"}, ScriptedBackend(interrupt=lambda inputs: error))
    assert error_of(response) == expected
    assert response.json()["error"] == error.message
    assert ("retry-after" in response.headers) == (expected[0] == 503)


def test_a_passed_deadline_is_a_timeout():
    response = generate({"inputs": "a"}, ScriptedBackend(delay_s=5), headers={"X-Request-Timeout-Ms": "30"})
    assert error_of(response) == (504, "timeout")


@pytest.mark.parametrize("given", ["", "0", "-5", "1.5", "soon", "1e3", "9" * 400, "٣"])
def test_a_timeout_that_is_none_is_refused(given):
    response = generate({"inputs": "a"}, headers={"X-Request-Timeout-Ms": given.encode()})
    assert error_of(response) == (422, "validation")
    assert "X-Request-Timeout-Ms" in response.json()["error"]


def test_a_full_queue_is_overload_with_a_time_to_come_again():
    async def scenario():
        backend = ScriptedBackend(slots=1, delay_s=0.3)
        async with rest_server(backend, queue_rows=2, max_inputs=2, max_batch_rows=1) as server:
            return await asyncio.gather(
                *(server.client.post("/v1/generate", json={"inputs": ["a", "b"]}) for _ in range(4))
            )

    responses = asyncio.run(scenario())
    refused = [response for response in responses if response.status_code != 200]
    assert 0 < len(refused) < 4
    for response in refused:
        assert error_of(response) == (429, "overloaded")
        assert response.json()["error"].endswith(f"try again in {int(response.headers['retry-after'])} s")


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_not_read_to_its_end(declared):
    sent = []

    async def chunks():
        for _ in range(100):
            sent.append(1)
            yield b" " * 1024

    async def scenario():
        headers = {"content-length": "102400"} if declared else {}
        async with rest_server(max_body_bytes=2048) as server:
            return await server.client.post("/v1/generate", content=chunks(), headers=headers)

    response = asyncio.run(scenario())
    assert error_of(response) == (413, "too_large")
    assert "2048 bytes" in response.json()["error"]
    assert len(sent) <= 3


def test_a_body_just_within_the_limit_is_read():
    body = b'{"inputs": "a"}'.ljust(2048)
    assert ask("POST", "/v1/generate", settings={"max_body_bytes": 2048}, content=body).status_code == 200
    assert ask("POST", "/v1/generate", settings={"max_body_bytes": 2048}, content=body + b" ").status_code == 413


def test_a_fault_of_ours_is_a_500_in_the_envelope_and_logged(monkeypatch, caplog):
    async def scenario():
        async with rest_server() as server:
            monkeypatch.setattr(server.engine, "generate", lambda *a, **k: 1 / 0)
            return await server.client.post("/v1/generate", json={"inputs": "secret"})

    monkeypatch.setattr("service.telemetry._LOGGER.propagate", True)
    response = asyncio.run(scenario())
    assert error_of(response) == (500, "internal")
    assert "secret" not in caplog.text
    assert any(record.exc_info for record in caplog.records if record.message == "unexpected error")


def test_every_error_is_counted_by_its_type():
    async def scenario():
        async with rest_server() as server:
            for _ in range(2):
                await server.client.post("/v1/generate", content=b"{")
            await server.client.get("/nope")
            return (await server.client.get("/metrics")).text

    metrics = asyncio.run(scenario())
    assert 'malgil_request_failure_total{error_type="validation"} 2.0' in metrics
    assert 'malgil_request_failure_total{error_type="not_found"} 1.0' in metrics


# --- probes, hang-ups, logs -------------------------------------------------------------------------------------------


def test_a_server_lives_before_it_is_ready():
    assert ask("GET", "/livez", start=False).json() == {"status": "ok"}
    response = ask("GET", "/readyz", start=False)
    assert error_of(response) == (503, "unavailable")
    assert response.headers["retry-after"]
    assert error_of(generate({"inputs": "a"}, start=False)) == (503, "unavailable")
    assert ask("GET", "/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize(
    ("states", "ready", "generate"),
    [
        ((VersionState.REFUSED, VersionState.READY), (200, None), (404, None)),
        ((VersionState.REFUSED, VersionState.LOADING), (503, "1"), (404, None)),
        ((VersionState.LOADING, VersionState.REFUSED), (503, "1"), (503, "1")),
        ((VersionState.REFUSED, VersionState.REFUSED), (503, None), (404, None)),
    ],
    ids=str,
)
def test_who_asks_for_a_refused_version_is_not_told_to_wait(states, ready, generate):
    """``generate`` names version 2, whose state is the first."""

    async def scenario():
        backend = ScriptedBackend({"echo": [1, 2]})
        async with rest_server(backend) as server:
            backend.set_versions(map(replace_state, backend.versions(), states))
            answers = [
                await server.client.get("/readyz"),
                await server.client.post("/v1/generate", json={"inputs": "a", "version": 2}),
            ]
            backend.set_versions(())
            return [(answer.status_code, answer.headers.get("retry-after")) for answer in answers]

    def replace_state(version, state):
        return replace(version, state=state)

    assert asyncio.run(scenario()) == [ready, generate]


@pytest.mark.parametrize("state", [VersionState.LOADING, VersionState.REFUSED])
def test_a_new_model_does_not_take_the_others_out_of_rotation(state):
    async def scenario():
        backend = ScriptedBackend()
        async with rest_server(backend) as server:
            (old,) = backend.versions()
            new = replace(old, name="new", state=state)
            answers = []
            for versions in ([old, new], [replace(old, state=VersionState.LOADING), new]):
                backend.set_versions(versions)
                answers.append(await server.client.get("/readyz"))
                answers.append(await server.client.post("/v1/generate", json={"inputs": "a"}))
            return answers

    ready, answered, not_ready, _ = asyncio.run(scenario())
    assert (ready.status_code, answered.status_code) == (200, 200)
    assert error_of(not_ready) == (503, "unavailable")
    assert "is ready of echo:" in not_ready.json()["error"]
    assert not_ready.headers["retry-after"] == "1"


def test_a_server_that_drains_is_not_ready_and_takes_nothing():
    async def scenario():
        async with rest_server() as server:
            assert await server.engine.drain(1.0)
            paths = (("GET", "/readyz", None), ("POST", "/v1/generate", {"inputs": "a"}))
            return [await server.client.request(method, path, json=body) for method, path, body in paths]

    for response in asyncio.run(scenario()):
        assert error_of(response) == (503, "unavailable")
        assert "stopping" in response.json()["error"]


def _call(app, body, hang_up):
    """An ASGI call whose client sends ``body`` and hangs up when the event ``hang_up`` is set."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent = []

    async def receive():
        if messages:
            return messages.pop()
        await hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/generate", "headers": [], "query_string": b"", "state": {}}
    return app(scope, receive, send), sent


def test_a_client_that_hangs_up_frees_its_place_at_once():
    async def scenario():
        async with rest_server(ScriptedBackend(slots=1, delay_s=0.5)) as server:
            app = server.client._transport.app
            first = asyncio.create_task(server.client.post("/v1/generate", json={"inputs": "a"}))
            await asyncio.sleep(0.1)  # it runs, so the next waits
            hang_up = asyncio.Event()
            call, sent = _call(app, b'{"inputs": "b"}', hang_up)
            waiting = asyncio.create_task(call)
            await asyncio.sleep(0.1)
            assert b"malgil_num_requests_waiting 1.0" in server.telemetry.render()
            hang_up.set()
            await asyncio.wait_for(waiting, 0.2)
            metrics = server.telemetry.render().decode()
            assert (await first).status_code == 200
            return metrics, sent

    metrics, sent = asyncio.run(scenario())
    assert "malgil_num_requests_waiting 0.0" in metrics
    assert 'malgil_request_failure_total{error_type="client_closed"} 1.0' in metrics
    assert sent[0]["status"] == ERROR_TABLE[ClientClosed].http_status


def test_calls_are_logged_without_their_texts(monkeypatch, caplog):
    monkeypatch.setattr("service.telemetry._LOGGER.propagate", True)
    caplog.set_level("INFO", "malgil")
    generate({"inputs": "my secret"}, headers={"x-request-id": "r1"})
    ask("GET", "/my-secret-path")
    ask("GET", "/readyz")
    calls = [record.fields for record in caplog.records if record.message == "call"]
    assert [(call["method"], call["operation"], call["status"]) for call in calls] == [
        ("POST", "generate", 200),
        ("GET", None, 404),
    ]
    assert calls[0]["request_id"] == "r1"
    assert "secret" not in json.dumps([record.fields for record in caplog.records])


def test_every_error_of_the_table_has_its_status():
    """Transports have no table of their own."""

    async def scenario(error):
        async def app(scope, receive, send):
            raise error

        transport = httpx.ASGITransport(CallMiddleware(app, {}, Telemetry()))
        async with httpx.AsyncClient(transport=transport, base_url="http://malgil") as client:
            return await client.get("/")

    for kind, row in ERROR_TABLE.items():
        for seconds in (2, None):
            error: ServiceError = kind("why", retry_after_s=seconds)
            response = asyncio.run(scenario(error))
            assert response.status_code == row.http_status
            assert response.json() == {"error": "why", "error_type": row.error_type}
            assert response.headers.get("retry-after") == (seconds and str(seconds))


def test_every_field_of_a_hypothesis_is_told():
    assert set(schemas.Hypothesis.model_fields) == set(Hypothesis._fields)
