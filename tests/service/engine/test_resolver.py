"""Requests whose version goes while they run: another one answers, unless they asked for this very one."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from service.backend import Arrays, ModelVersion, VersionState
from service.backends.scripted import LIMITS, ScriptedBackend
from service.engine import Engine
from service.errors import (
    BackendFailed,
    BackendUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ServiceError,
)
from service.generation import DetokenizeRequest, Generation, TokenizeRequest, VersionChoice
from service.settings import Settings
from service.telemetry import Telemetry
from service.validation import parse_generate

POLL_S = 0.02


def run(
    test: Callable[[Engine], Awaitable[None]], backend: ScriptedBackend, labels: Path | None = None, **settings: Any
) -> None:
    async def main() -> None:
        typed = Settings(version_poll_s=POLL_S, labels_file=labels, **settings)
        engine = Engine(backend, typed, Telemetry())
        await engine.start()
        try:
            await test(engine)
        finally:
            await engine.close()

    asyncio.run(asyncio.wait_for(main(), timeout=60))


async def generate(
    engine: Engine, *texts: str, version: VersionChoice = None, timeout_s: float | None = None, **parameters: Any
) -> Generation:
    body = {"inputs": list(texts or ("no",)), "version": version, "parameters": parameters}
    request = parse_generate(body, engine.resolve, Settings())
    return await engine.generate(request, request_id="test", timeout_s=timeout_s)


class Stale(ScriptedBackend):
    """Loses versions of which it goes on saying that they are READY, until it looks again."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lost: set[int] = set()
        self.asked: list[int] = []

    async def predict(self, name: str, version: int, *arguments: Any, **options: Any) -> Any:
        self.asked.append(version)
        if version in self.lost:
            raise ModelNotFound(f"no version {version}")
        return await super().predict(name, version, *arguments, **options)


def other_tokenizer() -> bytes:
    """Of other tokens than the scripted backend's, with the same special ids."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["word the the word the"] * 9),
        model_writer=model,
        vocab_size=300,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        minloglevel=2,
    )
    return model.getvalue()


def removing(version: int) -> ScriptedBackend:
    """Versions 1 and 2, of which one goes while its first batch runs."""
    removals = [version]

    def interrupt(inputs: Arrays) -> ServiceError | None:
        if not removals:
            return None
        removals.clear()
        backend.set_versions([each for each in backend.versions() if each.version != version])
        return ModelNotFound("it goes")

    backend = ScriptedBackend({"echo": (1, 2)}, interrupt=interrupt)
    return backend


@pytest.mark.parametrize("texts", [("no",), ("the word", "no", "word", "echo", "is")])
def test_another_version_answers_in_place_of_one_that_goes(texts: tuple[str, ...]) -> None:
    async def test(engine: Engine) -> None:
        answer = await generate(engine, *texts)
        assert answer.version == 1
        assert [output.hypotheses[0].text for output in answer.outputs] == list(texts)

    run(test, removing(2), max_batch_rows=2)


def test_a_version_that_was_asked_for_by_number_is_not_replaced() -> None:
    async def test(engine: Engine) -> None:
        with pytest.raises(ModelNotFound):
            await generate(engine, version=2)
        assert (await generate(engine, version=1)).version == 1

    run(test, removing(2))


def test_a_label_moves_on_and_a_label_without_another_version_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text("echo: {canary: {2: 1, 1: 0.000001}, stable: 2}", "utf-8")

    async def test(engine: Engine) -> None:
        assert (await generate(engine, version="canary")).version == 1
        with pytest.raises(BackendUnavailable):
            await generate(engine, version="stable")

    run(test, removing(2), path)


def test_a_version_that_the_backend_lost_unnoticed_is_not_tried_twice() -> None:
    backend = Stale({"echo": (1, 2)})

    async def test(engine: Engine) -> None:
        backend.lost = {2}
        assert (await generate(engine)).version == 1
        assert backend.asked == [2, 1]

    run(test, backend)


def test_the_successor_is_waited_for_until_the_backend_has_noticed_it() -> None:
    backend = Stale({"echo": (1, 2)})

    async def test(engine: Engine) -> None:
        newer, older = backend.versions()
        backend.set_versions([older])
        backend.lost = {1}
        asyncio.get_running_loop().call_later(POLL_S, backend.set_versions, [newer])
        assert (await generate(engine)).version == 2

    run(test, backend)


def test_nobody_waits_for_a_successor_for_long_nor_beyond_the_deadline() -> None:
    backend = Stale()

    async def test(engine: Engine) -> None:
        loop = asyncio.get_running_loop()
        backend.lost = {1}
        started = loop.time()
        with pytest.raises(BackendUnavailable):
            await generate(engine)
        assert 3 * POLL_S <= loop.time() - started < 2
        took = []
        for _ in range(5):  # the processor may be elsewhere for as long, though not each time
            started = loop.time()
            with pytest.raises((BackendUnavailable, DeadlineExceeded)):
                await generate(engine, timeout_s=0.01)
            took.append(loop.time() - started)
        assert min(took) < 3 * POLL_S

    run(test, backend)


def test_a_version_that_comes_back_answers_again() -> None:
    backend = Stale()

    async def test(engine: Engine) -> None:
        backend.lost = {1}

        def come_back() -> None:
            backend.lost = set()
            backend.set_versions(backend.versions())

        asyncio.get_running_loop().call_later(POLL_S, come_back)
        assert (await generate(engine)).version == 1

    run(test, backend)


def test_endless_swaps_end() -> None:
    backend = Stale({"echo": (1, 2)})

    async def test(engine: Engine) -> None:
        backend.lost = {1, 2}
        swaps = itertools.cycle(backend.versions())

        async def swap() -> None:
            while True:
                backend.set_versions([next(swaps)])
                await asyncio.sleep(0)

        swapping = asyncio.create_task(swap())
        with pytest.raises((ModelNotFound, BackendUnavailable)):
            await generate(engine)
        swapping.cancel()
        assert len(backend.asked) <= 10

    run(test, backend)


def _with_limits(version: ModelVersion, **limits: int) -> ModelVersion:
    assert version.manifest is not None
    return replace(version, manifest=replace(version.manifest, limits=replace(LIMITS, **limits)))


def test_the_limits_are_those_of_the_version_that_answers() -> None:
    backend = Stale({"echo": (1, 2)})

    async def test(engine: Engine) -> None:
        newer, older = backend.versions()
        backend.set_versions(
            [newer, _with_limits(older, max_beam_size=2, max_source_tokens=4, default_max_new_tokens=1)]
        )
        backend.lost = {2}
        answer = await generate(engine)
        assert (answer.version, answer.outputs[0].hypotheses[0].generated_tokens) == (1, 1)
        with pytest.raises(InvalidRequest, match="'beam_size' must be an integer from 1 to 2"):
            await generate(engine, beam_size=4)
        with pytest.raises(InvalidRequest, match="the model reads at most 3"):
            await generate(engine, "the the the the")

    run(test, backend)


@pytest.mark.parametrize("version", [None, 1])
@pytest.mark.parametrize("fails", [False, True])
def test_ids_of_another_tokenizer_under_the_same_number_are_made_anew(version: VersionChoice, fails: bool) -> None:
    """Files were overwritten: the text was tokenized for the old ones, and ran on the new ones."""
    seen = []

    def interrupt(inputs: Arrays) -> ServiceError | None:
        seen.append(inputs["source_ids"].tolist())
        if len(seen) > 1:
            return None
        (old,) = backend.versions()
        backend.set_versions([replace(old, tokenizer=other_tokenizer())])
        return BackendFailed("no such id") if fails else None

    async def test(engine: Engine) -> None:
        await generate(engine, "the word", version=version)
        first, second = seen
        assert first != second
        await generate(engine, "the word", version=version)
        assert seen[2:] == [second]

    backend = ScriptedBackend(interrupt=interrupt)
    run(test, backend)


def test_tokenizing_moves_on_too() -> None:
    backend = ScriptedBackend({"echo": (1, 2)})

    async def test(engine: Engine) -> None:
        backend.set_versions(backend.versions()[1:])
        assert (await engine.tokenize(TokenizeRequest("echo", 2, ("no",)))).version == 1
        assert (await engine.detokenize(DetokenizeRequest("echo", 2, ((5,),)))).version == 1
        with pytest.raises(ModelNotFound):
            await engine.tokenize(TokenizeRequest("echo", 2, ("no",), asked=2))

    run(test, backend)


def test_the_backend_is_told_what_to_keep_before_it_starts_and_when_labels_change(tmp_path: Path) -> None:
    kept: list[tuple[bool, Any]] = []

    class Keeping(ScriptedBackend):
        def keep(self, versions: Any) -> None:
            kept.append((bool(self.versions()), dict(versions)))

    path = tmp_path / "labels.yaml"
    path.write_text("echo: {stable: 1, next: 3}", "utf-8")

    async def test(engine: Engine) -> None:
        path.write_text("echo: {stable: 2}", "utf-8")
        while len(kept) < 2:
            await asyncio.sleep(POLL_S)
        assert kept == [(False, {"echo": {1, 3}}), (True, {"echo": {2}})]
        assert (await generate(engine, version="stable")).version == 2

    run(test, Keeping({"echo": (1, 2)}), path)


def test_a_broken_file_is_told_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text("echo: {stable: 1}", "utf-8")

    async def test(engine: Engine) -> None:
        assert engine.labels_error is None
        path.write_text("echo: {stable: one}", "utf-8")
        while engine.labels_error is None:
            await asyncio.sleep(POLL_S)
        assert (await generate(engine, version="stable")).version == 1

    run(test, ScriptedBackend({"echo": (1, 2)}), path)


MEANING: dict[VersionChoice, set[int]] = {1: {1}, "stable": {1, 2, 3}, "canary": {1, 3, 4}, None: {2, 3, 4}}
"""All that may answer what clients ask for, in the test below."""


class Load:
    """Clients that call as fast as they are answered, and versions and labels that change meanwhile."""

    def __init__(self, path: Path) -> None:
        self.backend = ScriptedBackend({"echo": (1, 2, 3, 4)}, delay_s=0.003)
        self.answered: Counter[tuple[VersionChoice, int]] = Counter()
        self.stop = False
        self._path = path
        self._good: dict[int, ModelVersion] = {}
        path.write_text("echo: {stable: 1, canary: {1: 1, 3: 1}}", "utf-8")

    async def client(self, engine: Engine, number: int) -> None:
        choices = list(MEANING)
        for count in itertools.count(number):
            if self.stop:
                return
            choice = choices[count % len(choices)]
            texts = ["the word", "no", "말길 🦜"][: 1 + count % 3]
            answer = await generate(engine, *texts, version=choice, beam_size=1 + count % 2)
            assert [output.hypotheses[0].text for output in answer.outputs] == texts
            self.answered[choice, answer.version] += 1

    def there_are(self, *versions: int, broken: int | None = None) -> None:
        self._good = self._good or {each.version: each for each in self.backend.versions()}
        self.backend.set_versions(
            [
                ModelVersion("echo", number, VersionState.REFUSED, "broken") if number == broken else self._good[number]
                for number in versions
            ]
        )

    async def label(
        self, engine: Engine, stable: int, canary: dict[int, int], in_force: tuple[dict[int, int], dict[int, int]]
    ) -> None:
        """Write the file, and wait until it has been read; ``in_force`` is what must come of it."""
        new = self._path.with_suffix(".new")
        new.write_text(f"echo: {{stable: {stable}, canary: {canary}}}", "utf-8")
        new.rename(self._path)
        while True:
            found = {each.label: each for each in engine.status()[0].labels}
            if (found["stable"].wanted, found["canary"].wanted) == ({stable: 1}, canary):
                break
            await asyncio.sleep(POLL_S)
        assert (found["stable"].in_force, found["canary"].in_force) == in_force

    async def answers(self, *expected: tuple[VersionChoice, int]) -> None:
        """Wait until one more of each has come."""
        before = self.answered.copy()
        while any(self.answered[each] == before[each] for each in expected):
            await asyncio.sleep(POLL_S / 10)


def test_16_clients_under_swaps_moves_broken_and_removed_versions(tmp_path: Path) -> None:
    """No request fails, and each is answered by a version that what it asked for stood for while it ran."""
    load = Load(tmp_path / "labels.yaml")

    async def disturb(engine: Engine) -> None:
        for _ in range(3):
            await load.label(engine, 2, {1: 1, 4: 3}, ({2: 1}, {1: 1, 4: 3}))
            await load.answers(("stable", 2), ("canary", 4), (None, 4))
            load.there_are(1, 2, 4, broken=4)  # the canary falls back to 1, and the newest is 2
            await load.answers(("canary", 1), (None, 2))
            await load.label(engine, 3, {1: 1}, ({2: 1}, {1: 1}))  # refused: 3 is gone
            await load.answers(("stable", 2))
            load.there_are(1, 2, 3, 4)
            await load.answers(("stable", 3))
            load.there_are(1, 3)  # 2 goes, which nobody names any more
            await load.answers((None, 3))
            await load.label(engine, 1, {1: 1, 3: 1}, ({1: 1}, {1: 1, 3: 1}))
            await load.answers(("stable", 1), ("canary", 3))
            for _ in range(5):  # swaps
                load.there_are(1, 3)
                await asyncio.sleep(POLL_S / 4)
                load.there_are(1, 2, 3, 4)
                await asyncio.sleep(POLL_S / 4)
        load.stop = True

    async def test(engine: Engine) -> None:
        await asyncio.gather(disturb(engine), *(load.client(engine, number) for number in range(16)))

    run(test, load.backend, tmp_path / "labels.yaml")
    answered = load.answered
    assert {choice: {version for asked, version in answered if asked == choice} for choice in MEANING} == MEANING
    assert answered.total() > 100
