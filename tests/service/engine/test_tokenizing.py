"""Gateway and graph tokenize with the same result, whoever does it."""

from __future__ import annotations

import asyncio
import pathlib
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from service.backend import Arrays, Backend
from service.backends.scripted import ScriptedBackend, scripted_manifest, tiny_tokenizer
from service.bootstrap import make_backend
from service.engine import Engine, tokenizing
from service.engine.tokenizing import graph_tokenizes
from service.errors import BackendFailed, DeadlineExceeded, InvalidRequest
from service.generation import DetokenizeRequest, GenerationOptions, GenerationRequest, TokenizeRequest
from service.settings import Settings
from service.telemetry import Telemetry
from service.tokenization import SentencePieceTokenizer

WORDS = ["the", "word", "is", "no", "echo", "말길", "좋다", "🦜", "said", "ﷺ", "é"]
MODES = ("gateway", "graph")


class Recording(ScriptedBackend):
    """Remembers which signatures ran."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.signatures: list[str] = []

    async def predict(self, name: str, version: int, signature: str, *arguments: Any) -> Any:
        self.signatures.append(signature)
        return await super().predict(name, version, signature, *arguments)


def run(test: Callable[[Engine], Awaitable[Any]], backend: Backend, mode: str, **settings: Any) -> Any:
    async def main() -> Any:
        engine = Engine(backend, Settings(tokenize=mode, tokenizer_check_share=0.0, **settings), Telemetry())
        await engine.start()
        try:
            return await test(engine)
        finally:
            await engine.close()

    return asyncio.run(asyncio.wait_for(main(), timeout=300))


def mixed_requests(model: str, longest: int) -> list[GenerationRequest]:
    chance = random.Random(5)
    requests = []
    for _ in range(60):
        beam_size = chance.choice((1, 1, 4))
        texts = tuple(" ".join(chance.choices(WORDS, k=chance.randint(1, longest))) for _ in range(3))
        options = GenerationOptions(
            beam_size=beam_size,
            num_hypotheses=chance.randint(1, beam_size),
            max_new_tokens=chance.choice((None, 3)),
            prefix=chance.choice(("", "the", "no word")),
            truncate=True,
            details=chance.random() < 0.5,
        )
        requests.append(GenerationRequest(model, 1, texts, options))
    return requests


async def answers(engine: Engine, requests: list[GenerationRequest]) -> list[Any]:
    generations = await asyncio.gather(*(engine.generate(request, request_id="test") for request in requests))
    return [(generation.version, generation.outputs) for generation in generations]


def test_mixed_requests_have_the_same_answers_in_both_modes() -> None:
    requests = mixed_requests("echo", 300)
    backends = {mode: Recording(slots=1) for mode in MODES}
    found = {mode: run(lambda engine: answers(engine, requests), backends[mode], mode) for mode in MODES}
    assert found["graph"] == found["gateway"]
    assert set(backends["gateway"].signatures) == {"generate_ids"}
    assert set(backends["graph"].signatures) == {"generate", "generate_ids"}, "texts that are cut go by their ids"
    warnings = [output.warnings for _, outputs in found["graph"] for output in outputs]
    assert any(warnings)
    assert not all(warnings)


def test_tokenizing_has_the_same_answer_in_both_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ("the word", "말길 🦜", "\u3000", " ".join(WORDS * 9), "no")
    ids = ((260, 261), (), (5,) * 50, (0, 1, 2, 3), (262,))

    async def test(engine: Engine) -> Any:
        tokens = await engine.tokenize(TokenizeRequest("echo", 1, texts))
        sequences = (*ids, *(output.ids for output in tokens.outputs))
        return tokens, await engine.detokenize(DetokenizeRequest("echo", 1, sequences))

    gateway = run(test, Recording(), "gateway")
    assert gateway[0].outputs[2].ids == ()
    backend = Recording()
    assert run(test, backend, "graph") == gateway
    assert backend.signatures == ["tokenize", "detokenize"]
    monkeypatch.setattr(tokenizing, "MAX_TOKENIZED", 100)  # more calls of the graph, but still all texts within it
    narrow = Recording()
    few = DetokenizeRequest("echo", 1, ids)
    assert run(lambda engine: engine.detokenize(few), narrow, "graph") == run(
        lambda engine: engine.detokenize(few), Recording(), "gateway"
    )
    assert len(narrow.signatures) > 1


def test_no_call_of_the_graph_is_padded_beyond_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "MAX_TOKENIZED", 12)
    sizes: list[int] = []

    async def graph(signature: str, inputs: Arrays) -> Arrays:
        sizes.append(inputs["ids"].size)
        return {
            "sentences": [str(ids[:length].tolist()).encode() for ids, length in zip(*inputs.values(), strict=True)]
        }

    for lengths in ([1, 1, 9, 1, 1, 1, 4, 4, 4, 20, 1], [0, 0, 1], [12], [13]):
        sequences = [tuple(range(length)) for length in lengths]
        texts = asyncio.run(tokenizing.detokenize(sequences, SentencePieceTokenizer(tiny_tokenizer()), graph))
        assert texts == tuple(str(list(sequence)) for sequence in sequences)
    assert [size for size in sizes if size > 12] == [20, 13], "sequences that are longer alone"


def test_too_many_tokens_are_refused_in_both_modes() -> None:
    request = TokenizeRequest("echo", 1, ("ﷺ" * 6000,) * 2)
    for mode in MODES:
        backend = Recording()
        with pytest.raises(InvalidRequest, match=r"'inputs' have \d+ tokens"):
            run(lambda engine: engine.tokenize(request), backend, mode)
        assert backend.signatures == []


def test_the_graph_has_only_so_much_time_to_tokenize() -> None:
    given: list[float] = []

    class Timed(ScriptedBackend):
        async def predict(self, name: str, version: int, signature: str, inputs: Arrays, timeout_s: Any = None) -> Any:
            given.append(timeout_s)
            raise DeadlineExceeded("too late")

    with pytest.raises(DeadlineExceeded):
        run(
            lambda engine: engine.tokenize(TokenizeRequest("echo", 1, ("no",))),
            Timed(),
            "graph",
            default_timeout_ms=500,
        )
    assert 0 < given[0] <= 0.5


@pytest.mark.parametrize(
    ("signatures", "kind", "modes"),
    [
        (("generate", "generate_ids"), "sentencepiece", {"gateway": False, "graph": True, "auto": False}),
        (("generate", "generate_ids"), "word", {"gateway": False, "graph": True, "auto": True}),
        (("generate_ids",), "sentencepiece", {"gateway": False, "graph": False, "auto": False}),
    ],
)
def test_who_tokenizes(signatures: tuple[str, ...], kind: str, modes: Mapping[str, bool]) -> None:
    manifest = scripted_manifest("echo")
    manifest = replace(
        manifest,
        signatures={name: manifest.signatures[name] for name in signatures},
        tokenizer=replace(manifest.tokenizer, kind=kind),
    )
    assert {mode: graph_tokenizes(manifest, mode) for mode in modes} == modes


def test_an_artifact_for_ids_alone_is_answered_in_every_mode() -> None:
    for mode in (*MODES, "auto"):
        backend = Recording()

        async def test(engine: Engine, backend: Recording = backend) -> Any:
            (version,) = backend.versions()
            assert version.manifest is not None
            ids_only = {name: version.manifest.signatures[name] for name in ("generate_ids", "describe")}
            backend.set_versions([replace(version, manifest=replace(version.manifest, signatures=ids_only))])
            with pytest.raises(BackendFailed, match="no signature"):
                await backend.predict("echo", 1, "tokenize", {})
            backend.signatures.clear()
            await engine.tokenize(TokenizeRequest("echo", 1, ("no",)))
            return await answers(engine, mixed_requests("echo", 5)[:3])

        run(test, backend, mode)
        assert set(backend.signatures) == {"generate_ids"}


def test_a_real_graph_gives_the_same_answers_in_both_modes(artifact_root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "tiny-rnn").symlink_to(artifact_root / "tiny-rnn")
    texts = tuple(" ".join(WORDS[:count]) for count in range(1, len(WORDS)))

    async def test(engine: Engine) -> Any:
        (version,) = engine.models()
        assert version.manifest is not None
        room = version.manifest.limits.max_source_tokens
        requests = mixed_requests("tiny-rnn", room)[:12]
        tokens = await engine.tokenize(TokenizeRequest("tiny-rnn", 1, texts))
        sequences = tuple(output.ids for output in tokens.outputs)
        return (
            tokens,
            await engine.detokenize(DetokenizeRequest("tiny-rnn", 1, sequences)),
            await answers(engine, requests),
        )

    settings = Settings(models_folder=tmp_path, concurrent_runs=1, max_batch_rows=4)
    gateway, graph = (run(test, make_backend(settings), mode) for mode in MODES)
    assert graph[:2] == gateway[:2]
    assert _comparable(graph[2]) == _comparable(gateway[2])


def _comparable(answers: list[Any]) -> list[Any]:
    """Scores differ in their last digits by the batch that a row happens to be in."""
    return [
        [
            (output.input_tokens, output.warnings, [(each.text, each.generated_tokens) for each in output.hypotheses])
            for output in outputs
        ]
        for _, outputs in answers
    ]
