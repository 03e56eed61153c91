"""What clients make of servers that are none of ours, or busy; with ours, see ``test_cli.py``."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.backends.scripted import ScriptedBackend
from service.client import in_process, over_http, patient
from service.errors import (
    BackendFailed,
    BackendUnavailable,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    RequestTooLarge,
)
from service.settings import Settings
from tests.support.stub_server import Reply, answer, echo, stub_server

BODY = {"inputs": ["a"], "parameters": {}}


def error(kind, message):
    return {"error": message, "error_type": kind}


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (Reply(error("validation", "no such field"), 422), InvalidRequest, "^no such field$"),
        (Reply(error("not_found", "no such model"), 404), ModelNotFound, "^no such model$"),
        (Reply(error("too_large", "shorten it"), 413), RequestTooLarge, "^shorten it$"),
        (Reply(error("overloaded", "come again"), 429), Overloaded, "^come again$"),
        (Reply(error("unavailable", "it loads"), 503), BackendUnavailable, "^it loads$"),
        (Reply(error("timeout", "too long"), 504), DeadlineExceeded, "^too long$"),
        (Reply(error("internal", "our fault"), 500), BackendFailed, "^our fault$"),
        (Reply(error(["odd"], 7), 500), BackendFailed, "^7$"),
        (Reply(b"<html>", 500), BackendFailed, "answered 500 .*not as Malgil does"),
        (Reply(["error"], 404), BackendFailed, "answered 404 .*not as Malgil does"),
        (Reply(b"<html>"), BackendFailed, "not as Malgil does"),
        (Reply(b"\xff\xfe"), BackendFailed, "not as Malgil does"),
        (Reply([]), BackendFailed, "not as Malgil does"),
        (Reply({"outputs": []}), BackendFailed, "not as Malgil does"),
        (answer([]), BackendFailed, "not as Malgil does"),
        (answer([{}]), BackendFailed, "not as Malgil does"),
        (answer([{"hypotheses": [{"text": None, "score": 0.0}]}]), BackendFailed, "not as Malgil does"),
        (answer([{"hypotheses": []}]), BackendFailed, "not as Malgil does"),
    ],
)
def test_any_answer_becomes_one_error(reply, kind, message):
    with stub_server(lambda path, body: reply) as server, pytest.raises(kind, match=message) as raised:
        over_http(server.url, 10.0)("generate", BODY)
    assert raised.type is kind


def test_scores_are_needed_of_scoring():
    def respond(path, body):
        assert path == "/v1/score"
        return answer([{"score": -1.0, "perplexity": 2.0}] if body["targets"] == ["b"] else [{"score": -1.0}])

    with stub_server(respond) as server:
        ask = over_http(server.url, 10.0)
        assert ask("score", {"inputs": ["a"], "targets": ["b"]})["outputs"] == [{"score": -1.0, "perplexity": 2.0}]
        with pytest.raises(BackendFailed, match="not as Malgil does"):
            ask("score", {"inputs": ["a"], "targets": ["c"]})


def test_texts_arrive_in_every_script():
    with stub_server(echo) as server:
        texts = ["말길 😀", '"\\\x01\t']
        outputs = over_http(f"{server.url}/", 10.0)("generate", {"inputs": texts, "parameters": {}})["outputs"]
    assert [output["generated_text"] for output in outputs] == texts


def test_no_answer_in_time_is_unavailable():
    released = threading.Event()

    def respond(path, body):
        released.wait(10)
        return Reply({})

    with stub_server(respond) as server:
        with pytest.raises(BackendUnavailable, match="timed out"):
            over_http(server.url, 0.05)("generate", BODY)
        released.set()


def test_a_connection_that_ends_early_is_unavailable():
    cut_short = Reply(b'{"outputs":', headers={"content-length": "100"})
    with stub_server(lambda path, body: cut_short) as server, pytest.raises(BackendUnavailable, match="no answer"):
        over_http(server.url, 10.0)("generate", BODY)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "localhost:8000", "http://[::1"])
def test_an_address_of_another_kind_is_refused_before_it_is_called(url):
    with pytest.raises(InvalidRequest, match="is no address of a server"):
        over_http(url, 1.0)("generate", BODY)


def after(seconds):
    return {} if seconds is None else {"retry-after": seconds}


def test_a_busy_server_is_asked_again_when_it_says():
    replies = iter(
        [
            Reply(error("overloaded", "full"), 429, after("7")),
            Reply(error("overloaded", "full"), 429, after("soon")),
            Reply(error("unavailable", "it loads"), 503, after("0")),
            echo("/v1/generate", BODY),
        ]
    )
    slept = []
    with stub_server(lambda path, body: next(replies)) as server:
        ask = patient(over_http(server.url, 10.0), sleep=slept.append)
        assert ask("generate", BODY)["outputs"][0]["generated_text"] == "a"
    assert slept == [7, 1, 1]


@pytest.mark.parametrize(
    ("status", "kind", "retry_after", "tries", "message"),
    [
        (429, "overloaded", "4", 3, r"^full \(so it has been for 8 s\)$"),
        (503, "unavailable", "4", 3, r"^full \(so it has been for 8 s\)$"),
        (503, "unavailable", None, 1, "^full$"),
        (422, "validation", "4", 1, "^full$"),
    ],
)
def test_patience_has_an_end(status, kind, retry_after, tries, message):
    reply = Reply(error(kind, "full"), status, after(retry_after))
    with stub_server(lambda path, body: reply) as server:
        ask = patient(over_http(server.url, 10.0), 10.0, sleep=lambda seconds: None)
        with pytest.raises((Overloaded, BackendUnavailable, InvalidRequest), match=message):
            ask("generate", BODY)
    assert len(server.bodies) == tries


def test_nobody_there_is_not_asked_again():
    with pytest.raises(BackendUnavailable, match="does `malgil serve` run there") as raised:
        patient(over_http("http://127.0.0.1:1", 1.0), sleep=lambda seconds: pytest.fail("waited"))("generate", BODY)
    assert raised.value.retry_after_s is None


def test_models_in_this_process_answer_several_threads():
    with in_process(Settings(backend="scripted"), 10.0) as ask:
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda n: ask("generate", {"inputs": [f"word {n}"]}), range(40)))
        scored = ask("score", {"inputs": ["a"], "targets": ["a"], "parameters": {"align": True}})
        with pytest.raises(InvalidRequest, match="'beam_size' must be an integer"):
            ask("generate", {"inputs": ["a"], "parameters": {"beam_size": 0}})
        with pytest.raises(ModelNotFound, match="there is no model 'other'"):
            ask("score", {"inputs": ["a"], "targets": ["a"], "model": "other"})
    assert [answer["outputs"][0]["generated_text"] for answer in answers] == [f"word {n}" for n in range(40)]
    assert scored["model_name"] == "echo"
    assert {"score", "perplexity", "alignment"} <= scored["outputs"][0].keys()


def test_models_that_are_closed_answer_nobody(monkeypatch):
    reached = threading.Event()

    class Slow(ScriptedBackend):
        async def predict(self, *arguments):
            reached.set()
            await asyncio.sleep(30)

    monkeypatch.setattr("service.bootstrap.make_backend", lambda settings: Slow())
    with ThreadPoolExecutor(1) as threads:
        with in_process(Settings(), 60.0) as ask:
            waiting = threads.submit(ask, "generate", {"inputs": ["a"]})
            assert reached.wait(10)
        with pytest.raises(Draining):
            waiting.result(10)
    with pytest.raises(Draining, match="closed"):
        ask("generate", {"inputs": ["a"]})


def test_models_that_cannot_be_loaded_are_told(tmp_path):
    with pytest.raises(BackendUnavailable, match="no model in"), in_process(Settings(models_folder=tmp_path), 1.0):
        pytest.fail("there are no models")
