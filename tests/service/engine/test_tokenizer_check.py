"""Graph and gateway on live texts: what differs is counted and told, and never in anybody's way."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from service.backends.scripted import ScriptedBackend
from service.backends.scripted_artifact import train_tokenizer
from service.engine import Engine
from service.errors import BackendUnavailable, ServiceError
from service.generation import GenerationOptions, GenerationRequest
from service.settings import Settings
from service.telemetry import Telemetry


@functools.cache
def another_tokenizer() -> bytes:
    """Its ids are not those of the scripted graph."""
    return train_tokenizer("the word no", 280)


class Graph(ScriptedBackend):
    """Remembers the texts that it tokenizes, and may fail or hang on the way."""

    def __init__(self, error: ServiceError | None = None, hangs: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.texts: list[str] = []
        self.ended = 0
        self._error, self._hangs = error, hangs

    async def predict(self, name: str, version: int, signature: str, inputs: Any, timeout_s: Any = None) -> Any:
        if signature == "tokenize":
            self.texts.extend(text.decode() for text in inputs["texts"])
            try:
                await asyncio.sleep(3600 if self._hangs else 0)
            finally:
                self.ended += 1
            if self._error is not None:
                raise self._error
        return await super().predict(name, version, signature, inputs, timeout_s)

    def disagree(self) -> None:
        """The gateway is given another tokenizer than the graph has."""
        self.set_versions([replace(version, tokenizer=another_tokenizer()) for version in self.versions()])


def run(test: Callable[[Engine], Awaitable[None]], backend: Graph, share: float = 1.0) -> Callable[[], float | None]:
    """Run ``test``; returns what reads the counter."""
    telemetry = Telemetry()

    async def main() -> None:
        before = asyncio.all_tasks()
        engine = Engine(backend, Settings(tokenizer_check_share=share), telemetry, random.Random(3))
        await engine.start()
        try:
            await test(engine)
        finally:
            await engine.close()
        assert asyncio.all_tasks() <= before

    asyncio.run(asyncio.wait_for(main(), timeout=30))
    return lambda: telemetry.registry.get_sample_value("malgil_tokenizer_mismatch_total", {"model_name": "echo"})


async def generate(engine: Engine, *texts: str, **options: Any) -> None:
    await engine.generate(GenerationRequest("echo", 1, texts, GenerationOptions(**options)), request_id="test")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_agreement_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    backend = Graph()

    async def test(engine: Engine) -> None:
        await generate(engine, "the word", "말길 🦜")
        await until(lambda: backend.ended == 1)
        await asyncio.sleep(0.01)

    assert run(test, backend)() is None
    assert backend.texts == ["the word", "말길 🦜"]
    assert caplog.records == []


def test_what_differs_is_counted_by_text_and_told_once_without_the_text(caplog: pytest.LogCaptureFixture) -> None:
    backend = Graph()

    async def test(engine: Engine) -> None:
        backend.disagree()
        for count in (1, 2):
            await generate(engine, "secret word", "another secret")
            await until(lambda: backend.ended == count)  # noqa: B023

    assert run(test, backend)() == 4
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    fields = record.fields
    assert (fields["model_name"], fields["model_version"]) == ("echo", 1)
    assert fields["gateway_id"] != fields["graph_id"]
    assert all(not isinstance(value, str) or value == "echo" for value in fields.values())


def test_a_share_of_the_texts_is_compared() -> None:
    backend = Graph()

    async def test(engine: Engine) -> None:
        for _ in range(20):
            await generate(engine, *["no"] * 20)
            await asyncio.sleep(0.002)

    run(test, backend, share=0.1)
    assert 15 < len(backend.texts) < 80


def test_no_share_no_comparison() -> None:
    backend = Graph()
    run(lambda engine: generate(engine, *["no"] * 50), backend, share=0.0)
    assert backend.texts == []


def test_texts_that_were_cut_are_not_compared() -> None:
    backend = Graph()

    async def test(engine: Engine) -> None:
        await generate(engine, "the " * 1000, "no", truncate=True)
        await until(lambda: backend.ended == 1)

    run(test, backend)
    assert backend.texts == ["no"]


def test_an_artifact_for_ids_alone_has_nothing_to_compare() -> None:
    backend = Graph()

    async def test(engine: Engine) -> None:
        (version,) = backend.versions()
        assert version.manifest is not None
        ids_only = {name: version.manifest.signatures[name] for name in ("generate_ids", "describe")}
        backend.set_versions([replace(version, manifest=replace(version.manifest, signatures=ids_only))])
        await generate(engine, "no")
        await asyncio.sleep(0.01)

    run(test, backend)
    assert backend.texts == []


def test_a_failing_comparison_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    backend = Graph(error=BackendUnavailable("gone"))

    async def test(engine: Engine) -> None:
        backend.disagree()
        await generate(engine, "no")
        await until(lambda: backend.ended == 1)

    assert run(test, backend)() is None
    assert caplog.records == []


def test_comparisons_are_few_at_a_time_and_end_with_the_engine() -> None:
    backend = Graph(hangs=True)

    async def test(engine: Engine) -> None:
        for _ in range(5):
            await generate(engine, "no")  # is answered all the same
            await asyncio.sleep(0.005)
        assert len(backend.texts) == 2

    run(test, backend)
    assert backend.ended == 2
