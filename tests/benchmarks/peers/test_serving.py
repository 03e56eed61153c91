from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sentencepiece import SentencePieceProcessor

from benchmarks.peers.serving import SERVERS, make_app
from benchmarks.servers import REPOSITORY

TOKENIZER = SentencePieceProcessor(model_file=str(REPOSITORY / "models" / "en-fr" / "tokenizer.model"))


class Translator:
    """In place of CTranslate2's: gives a source's own pieces, so far as it is allowed, and keeps what it was asked."""

    made: dict[str, Any]
    calls: list[dict[str, Any]]

    def __init__(self, folder: str, **arguments: Any) -> None:
        type(self).made, type(self).calls = {"folder": folder, **arguments}, []

    def translate_batch(self, batch: list[list[str]], **options: Any) -> list[SimpleNamespace]:
        self.calls.append({"rows": len(batch), **options})
        assert all(pieces[-1] == "</s>" for pieces in batch)
        return [SimpleNamespace(hypotheses=[pieces[:-1][: options["max_decoding_length"]]]) for pieces in batch]


async def post(server: str, *bodies: dict[str, Any]) -> list[httpx.Response]:
    app = make_app(SERVERS[server]("folder", TOKENIZER))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
        return await asyncio.gather(*(client.post("/v1/generate", json=body) for body in bodies))


def texts(server: str, *bodies: dict[str, Any]) -> list[str]:
    found = asyncio.run(post(server, *bodies))
    return [answer.raise_for_status().json()["outputs"][0]["generated_text"] for answer in found]


@pytest.fixture(autouse=True)
def ctranslate2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", SimpleNamespace(Translator=Translator))


@pytest.mark.parametrize("server", ["ctranslate2_documented", "ctranslate2_batched"])
def test_text_with_options_in_and_text_out(server: str) -> None:
    parameters = {"do_sample": True, "top_k": 20, "temperature": 0.8, "max_new_tokens": 19, "min_new_tokens": 2}

    assert texts(server, {"inputs": "I can jump. 🙂", "parameters": parameters}) == ["I can jump. 🙂"]

    assert Translator.made["folder"] == "folder"
    assert Translator.made["compute_type"] == "int8"
    assert Translator.calls == [
        {
            "rows": 1,
            "beam_size": 1,
            "max_decoding_length": 19,
            "min_decoding_length": 2,
            "sampling_topk": 20,
            "sampling_temperature": 0.8,
        }
    ]


def test_as_documented_every_request_is_a_call_of_a_translator_as_it_comes() -> None:
    assert texts("ctranslate2_documented", *[{"inputs": "Be nice."}] * 3) == ["Be nice."] * 3
    assert [call["rows"] for call in Translator.calls] == [1, 1, 1]
    assert set(Translator.made) == {"folder", "device", "compute_type"}


def test_requests_of_like_options_share_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.serving.usable_cores", lambda: 1)
    bounds = [{"max_new_tokens": count} for count in (1, 64)]
    beams = [{"beam_size": 4, "max_new_tokens": count} for count in (1, 64)]
    short, long = TOKENIZER.decode(TOKENIZER.encode("Be nice.", out_type=str)[:1]), "Be nice."

    asked = [{"inputs": "Be nice.", "parameters": each} for each in (*bounds, *beams)]

    assert texts("ctranslate2_batched", *asked) == [short, long, short, long]
    # A search with beams may end otherwise where it has less room, a greedy one may not.
    assert sorted((call["beam_size"], call["max_decoding_length"], call["rows"]) for call in Translator.calls) == [
        (1, 64, 2),
        (4, 1, 1),
        (4, 64, 1),
    ]


def test_what_makes_no_sense_is_refused() -> None:
    (answer,) = asyncio.run(post("ctranslate2_documented", {"inputs": ["a", "b"]}))

    assert answer.status_code == 422
