"""A service by its address: what it is asked, what it may answer, and when it is asked again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from model_export.evaluation import remote
from model_export.evaluation.remote import Address, RemoteSubject, Service
from model_export.evaluation.subject import EvaluationError

Reply = tuple[int, dict[str, str], Any]
LIMITS = {"max_source_tokens": 48, "max_target_tokens": 32, "max_beam_size": 6, "default_max_new_tokens": 20}


def version(number: int, state: str = "ready") -> dict[str, Any]:
    return {"version": number, "state": state, **({"limits": LIMITS} if state == "ready" else {})}


MODELS = [
    {
        "name": "en-fr",
        "version": 2,
        "versions": [version(3, "loading"), version(2), version(1)],
        "labels": [{"label": "stable", "versions": [{"version": 2, "weight": 1.0}, {"version": 1, "weight": 9.0}]}],
    }
]


class Fake:
    """A server that answers from a script; ``requests`` are what it was sent: path and body."""

    def __init__(self, reply: Callable[[str, Any], Reply]) -> None:
        self.requests: list[tuple[str, Any]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                sent = json.loads(body) if body else None
                fake.requests.append((self.path, sent))
                status, headers, value = reply(self.path, sent)
                self.send_response(status)
                for header in headers.items():
                    self.send_header(*header)
                self.end_headers()
                self.wfile.write(value if isinstance(value, bytes) else json.dumps(value).encode())

            do_GET = do_POST

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def fake(reply: Callable[[str, Any], Reply]) -> Iterator[Fake]:
    found = Fake(reply)
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        thread.join()
        found.server.server_close()


def answers(path: str, body: Any) -> Reply:
    """As `malgil serve` would, each character a token."""
    if path == "/v1/models":
        return 200, {}, {"models": MODELS}
    if path == "/v1/tokenize":
        return 200, {}, {"outputs": [{"ids": [ord(each) for each in text], "pieces": []} for text in body["inputs"]]}
    if path == "/v1/detokenize":
        return 200, {}, {"texts": ["".join(map(chr, body["ids"]))]}
    if path == "/v1/generate":
        outputs = [{"generated_text": text.upper(), "generated_tokens": len(text) + 1} for text in body["inputs"]]
        return 200, {}, {"outputs": outputs}
    assert path == "/v1/score"
    tokens = [{"id": 1, "piece": "a", "log_prob": -0.5, "rank": 0}, {"id": 3, "piece": "", "log_prob": -1.5, "rank": 4}]
    return 200, {}, {"outputs": [{"input_tokens": len(text) + 1, "tokens": tokens} for text in body["inputs"]]}


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://host:8000", Address("http://host:8000", "flag", "7")),
        ("http://host:8000/", Address("http://host:8000", "flag", "7")),
        ("https://host/en-fr", Address("https://host", "en-fr", "7")),
        ("http://host:8000/en-fr/stable", Address("http://host:8000", "en-fr", "stable")),
        ("http://host:8000/a%20b/3/", Address("http://host:8000", "a b", "3")),
    ],
)
def test_an_address_says_more_than_the_flags(text: str, expected: Address) -> None:
    assert Address.parse(text, "flag", "7") == expected


@pytest.mark.parametrize(
    "text",
    [
        "http://host/v1/generate/x",
        "http://host/?model=a",
        "http://",
        "http://[::1",
        "http://host:99999",
        "http://host:port",
    ],
)
def test_an_address_of_something_else(text: str) -> None:
    with pytest.raises(EvaluationError, match="use http://host:8000/MODEL/VERSION"):
        Address.parse(text)


@pytest.mark.parametrize(("asked", "number"), [(None, 2), ("1", 1), ("stable", 1)])
def test_one_version_is_chosen_and_kept(asked: str | None, number: int) -> None:
    with fake(answers) as server:
        subject = RemoteSubject.connect(Address(server.url, "en-fr", asked))
        subject.generate(["a"], {})

    assert subject.title == f"{server.url}/en-fr/{number}"
    assert subject.limits.max_source_tokens == 48
    assert server.requests[-1][1]["version"] == number


@pytest.mark.parametrize(
    ("model", "asked", "message"),
    [
        ("fr-en", None, "does not serve 'fr-en', but en-fr"),
        (None, "3", "version 3 of en-fr is not ready"),
        (None, "canary", "en-fr has no label 'canary' in force"),
    ],
)
def test_what_is_not_served_is_named(model: str | None, asked: str | None, message: str) -> None:
    with fake(answers) as server, pytest.raises(EvaluationError, match=message):
        RemoteSubject.connect(Address(server.url, model, asked))


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([*MODELS, {**MODELS[0], "name": "ko"}], "serves en-fr, ko: name the model, as in http://127.0.0.1:.*/MODEL"),
        ([], "serves no model"),
        ([{**MODELS[0], "version": None}], "no version of en-fr is ready"),
    ],
)
def test_no_model_to_choose(models: Any, message: str) -> None:
    with (
        fake(lambda path, body: (200, {}, {"models": models})) as server,
        pytest.raises(EvaluationError, match=message),
    ):
        RemoteSubject.connect(Address(server.url, None, None))


# --- calls ------------------------------------------------------------------------------------------------------------


def test_what_a_service_is_asked() -> None:
    with fake(answers) as server:
        subject = RemoteSubject.connect(Address(server.url, None, None), batch_size=2)
        server.requests.clear()

        assert subject.tokenize(["ab", "c", "d"]) == [[97, 98], [99], [100]]
        assert subject.detokenize([97, 98]) == "ab"
        (first, second) = subject.generate(["ab", "c"], {"beam_size": 4, "top_k": 0})
        (scored,) = subject.score(["ab"], ["x"])

    model = {"model": "en-fr", "version": 2}
    assert server.requests == [
        ("/v1/tokenize", {**model, "inputs": ["ab", "c"]}),
        ("/v1/tokenize", {**model, "inputs": ["d"]}),
        ("/v1/detokenize", {**model, "ids": [97, 98]}),
        ("/v1/generate", {**model, "inputs": ["ab", "c"], "parameters": {"beam_size": 4}}),
        ("/v1/score", {**model, "inputs": ["ab"], "targets": ["x"], "parameters": {"details": True}}),
    ]
    assert [(first.text, first.tokens), (second.text, second.tokens)] == [("AB", 3), ("C", 2)]
    assert (scored.log_probs.tolist(), scored.ranks.tolist(), scored.source_tokens) == ([-0.5, -1.5], [0, 4], 3)


def test_a_seed_is_sent_with_samples_alone() -> None:
    with fake(answers) as server:
        subject = RemoteSubject.connect(Address(server.url, None, None))
        subject.generate(["a"], {"do_sample": True, "seed": 0})
        subject.generate(["a"], {"seed": 0})

    assert [body["parameters"] for path, body in server.requests if path == "/v1/generate"] == [
        {"do_sample": True, "seed": 0},
        {},
    ]


@pytest.mark.parametrize("status", [429, 503])
def test_a_service_that_asks_for_another_try_gets_it(status: int) -> None:
    replies = iter(
        [(status, {"retry-after": "2"}, {"error": "full"}), (status, {"retry-after": "90"}, {"error": "full"})]
    )
    waited: list[float] = []
    with fake(lambda path, body: next(replies, (200, {}, {"outputs": 1}))) as server:
        assert Service(server.url, sleep=waited.append).call("/v1/generate", "outputs", {}) == 1

    assert waited == [2.0, 30.0]
    assert len(server.requests) == 3


def test_patience_ends() -> None:
    waited: list[float] = []
    full = {"error": "the queue is full", "error_type": "overloaded"}
    message = r"/v1/generate: the queue is full \(HTTP 429\)"
    with (
        fake(lambda path, body: (429, {"retry-after": "30"}, full)) as server,
        pytest.raises(EvaluationError, match=message),
    ):
        Service(server.url, sleep=waited.append).call("/v1/generate", "outputs", {})

    assert sum(waited) == remote.PATIENCE_S


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            (422, {}, {"error": "'beam_size' must be 1..6", "error_type": "validation"}),
            r"'beam_size' must be 1..6 \(HTTP 422",
        ),
        ((503, {}, {"error": "draining", "error_type": "unavailable"}), r"draining \(HTTP 503\)"),
        ((429, {"retry-after": "soon"}, {"error": "full", "error_type": "overloaded"}), r"full \(HTTP 429\)"),
        ((502, {}, b"<html>bad gateway</html>"), "HTTP 502 Bad Gateway"),
        ((500, {}, [1]), "HTTP 500"),
        ((200, {}, b"<html>hello</html>"), "answered, but not as Malgil does"),
        ((200, {}, {"answers": []}), "answered, but not as Malgil does"),
        ((200, {}, [1, 2]), "answered, but not as Malgil does"),
    ],
)
def test_what_is_no_answer_is_told(reply: Reply, message: str) -> None:
    waited: list[float] = []
    with fake(lambda path, body: reply) as server, pytest.raises(EvaluationError, match=message):
        Service(server.url, sleep=waited.append).call("/v1/generate", "outputs", {})

    assert (len(server.requests), waited) == (1, [])


def test_no_server_at_all() -> None:
    with fake(answers) as server:
        pass

    with pytest.raises(EvaluationError, match=f"no answer from {server.url}: .*; does `malgil serve` run there"):
        Service(server.url).call("/v1/models", "models")


def test_a_server_that_says_nothing_in_time() -> None:
    release = threading.Event()

    def late(path: str, body: Any) -> Reply:
        release.wait(10.0)
        return 200, {}, {}

    with fake(late) as server:
        with pytest.raises(EvaluationError, match=r"no answer from .*timed out"):
            Service(server.url, timeout_s=0.05).call("/v1/models", "models")
        release.set()
