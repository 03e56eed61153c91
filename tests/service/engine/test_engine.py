"""The engine on the scripted backend, from request to answer."""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import replace
from typing import Any

import pytest

from service.backend import Arrays, ModelVersion, VersionState
from service.backends.scripted import ScriptedBackend
from service.engine import Engine
from service.engine.off_loop import INLINE_CHARACTERS, off_loop_if_long
from service.errors import (
    BackendFailed,
    BackendUnavailable,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    ModelNotFound,
    ServiceError,
)
from service.generation import Detokenization, DetokenizeRequest, FinishReason, GenerationRequest, TokenizeRequest
from tests.support.running_engine import generate, run

WORDS = ["the", "word", "is", "no", "echo", "말길", "좋다", "🦜", "said"]


def test_texts_are_answered_in_order() -> None:
    async def test(engine: Engine) -> None:
        answer = await generate(engine, "the word", "말길 🦜", "no")
        assert (answer.model, answer.version) == ("echo", 1)
        assert [output.hypotheses[0].text for output in answer.outputs] == ["the word", "말길 🦜", "no"]
        best = answer.outputs[0].hypotheses[0]
        assert best.finish_reason is FinishReason.EOS_TOKEN
        assert best.generated_tokens == answer.outputs[0].input_tokens
        assert best.tokens is None
        timings = answer.timings
        assert 0 <= timings.queue_s <= timings.total_s
        assert 0 < timings.inference_s <= timings.total_s

    run(test)


def test_200_mixed_requests_at_once_get_what_each_gets_alone() -> None:
    chance = random.Random(1)
    calls = []
    for _ in range(200):
        beam_size = chance.choice((1, 1, 2, 4))
        texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 25))) for _ in range(chance.choice((1, 1, 3)))]
        options = {
            "beam_size": beam_size,
            "num_hypotheses": chance.randint(1, beam_size),
            "max_new_tokens": chance.choice((None, 3, 40)),
            "min_new_tokens": chance.choice((0, 2)),
            "length_penalty": chance.choice((0.0, 1.0, 0.6)),
            "prefix": chance.choice(("", "the", "no word")),
            "details": chance.random() < 0.5,
        }
        calls.append((texts, options))
    recorder: list[int] = []

    async def test(engine: Engine) -> None:
        together = await asyncio.gather(*(generate(engine, *texts, **options) for texts, options in calls))
        batches = len(recorder)
        assert max(recorder) > 1
        for (texts, options), answer in zip(calls, together, strict=True):
            assert (await generate(engine, *texts, **options)).outputs == answer.outputs
        assert batches < len(recorder) - batches

    def interrupt(inputs: Arrays) -> None:
        recorder.append(len(inputs["source_ids"]))

    run(test, ScriptedBackend(interrupt=interrupt))


def test_a_request_is_measured() -> None:
    async def test(engine: Engine) -> None:
        await generate(engine, "the word", "no")

    telemetry = run(test)
    value = telemetry.registry.get_sample_value
    model = {"model_name": "echo"}
    assert value("malgil_request_success_total", model | {"finished_reason": "eos_token"}) == 2
    assert value("malgil_e2e_request_latency_seconds_count", model | {"outcome": "answered"}) == 1
    assert value("malgil_request_queue_time_seconds_count", model) == 2
    assert value("malgil_prompt_tokens_total", model) == value("malgil_generation_tokens_total", model)


def test_the_time_of_a_call_is_measured_whatever_becomes_of_it() -> None:
    errors: list[ServiceError] = [BackendFailed("out of order")]

    async def test(engine: Engine) -> None:
        with pytest.raises(BackendFailed):
            await generate(engine, "no")
        with pytest.raises(DeadlineExceeded):
            await generate(engine, "no", timeout_s=0.01)
        with pytest.raises(InvalidRequest):
            await generate(engine, "the " * 1000)
        gone = generate(engine, "no")
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.wait([gone])
        await engine.drain(0.0)
        with pytest.raises(Draining):
            await generate(engine, "no")

    telemetry = run(test, ScriptedBackend(delay_s=0.05, interrupt=lambda inputs: errors.pop() if errors else None))
    value = telemetry.registry.get_sample_value
    for outcome in ("generation", "timeout", "validation", "client_closed", "unavailable"):
        labels = {"model_name": "echo", "outcome": outcome}
        assert value("malgil_e2e_request_latency_seconds_count", labels) == 1, outcome
    assert value("malgil_e2e_request_latency_seconds_sum", {"model_name": "echo", "outcome": "generation"}) > 0.05


def test_no_answer_in_time_is_an_error_in_time() -> None:
    async def test(engine: Engine) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(DeadlineExceeded):
            await generate(engine, "no", timeout_s=0.03)
        assert loop.time() - started < 0.15

    run(test, ScriptedBackend(delay_s=0.2))


@pytest.mark.parametrize("timeout_s", [None, 60.0], ids=["default", "more than the maximum"])
def test_the_servers_times_hold_where_the_request_has_none_or_too_much(timeout_s: float | None) -> None:
    async def test(engine: Engine) -> None:
        with pytest.raises(DeadlineExceeded):
            await generate(engine, "no", timeout_s=timeout_s)

    run(test, ScriptedBackend(delay_s=0.2), default_timeout_ms=20, max_timeout_ms=20)


@pytest.mark.parametrize("size", [INLINE_CHARACTERS, INLINE_CHARACTERS + 1])
def test_only_long_work_leaves_the_loops_thread(size: int) -> None:
    thread = asyncio.run(off_loop_if_long(size, threading.get_ident))
    assert (thread == threading.get_ident()) == (size <= INLINE_CHARACTERS)


def test_long_texts_are_answered_too() -> None:
    async def test(engine: Engine) -> None:
        answer = await generate(engine, "the word " * 5000, truncate=True)
        assert answer.outputs[0].warnings == (
            "input truncated by 9489 tokens",
            "output cut by the model's default of 'max_new_tokens', 128",
        )
        assert answer.outputs[0].hypotheses[0].finish_reason is FinishReason.LENGTH

    run(test)


def test_drain_refuses_what_is_new_and_finishes_what_was_accepted() -> None:
    async def test(engine: Engine) -> None:
        accepted = [generate(engine, "the word") for _ in range(5)]
        await asyncio.sleep(0.01)
        draining = asyncio.create_task(engine.drain(5.0))
        await asyncio.sleep(0)
        assert not engine.ready
        with pytest.raises(Draining):
            await generate(engine, "no")
        assert await draining
        assert all(task.done() and task.result() for task in accepted)

    run(test, ScriptedBackend(slots=1, delay_s=0.03))


def test_what_a_drain_leaves_is_told_so() -> None:
    async def test(engine: Engine) -> None:
        tasks = [generate(engine, "the word") for _ in range(5)]
        await asyncio.sleep(0.01)
        assert not await engine.drain(0.02)
        for task in tasks:
            with pytest.raises(Draining):
                await task

    run(test, ScriptedBackend(slots=1, delay_s=0.1))


def test_closing_does_not_wait_for_a_batch_that_nobody_waits_for() -> None:
    class Endless(ScriptedBackend):
        """Its runs last until it is closed."""

        def __init__(self) -> None:
            super().__init__()
            self._closing = asyncio.Event()

        async def predict(self, *_: Any, **__: Any) -> Any:
            await self._closing.wait()
            raise BackendUnavailable("the model was unloaded while it ran")

        async def close(self) -> None:
            self._closing.set()

    async def test(engine: Engine) -> None:
        task = generate(engine, "the word")
        await asyncio.sleep(0.01)
        await asyncio.wait_for(engine.close(), 5)
        with pytest.raises(Draining):
            await task

    run(test, Endless())


def test_an_idle_engine_drains_at_once() -> None:
    async def test(engine: Engine) -> None:
        assert await engine.drain(0.0)
        assert not engine.ready

    run(test)


def test_listeners_learn_of_new_versions_and_of_the_end() -> None:
    backend = ScriptedBackend()
    seen: list[bool] = []

    async def test(engine: Engine) -> None:
        engine.subscribe(lambda: seen.append(engine.ready))
        (version,) = backend.versions()
        backend.set_versions([replace(version, state=VersionState.REFUSED)])
        backend.set_versions([version])
        assert seen == [False, True]
        await engine.drain(1.0)
        await engine.drain(1.0)
        assert seen == [False, True, False]

    run(test, backend)


def test_tokenize_and_detokenize_undo_each_other() -> None:
    async def test(engine: Engine) -> None:
        texts = ("the word", "말길 🦜")
        answer = await engine.tokenize(TokenizeRequest("echo", 1, texts))
        assert "".join(answer.outputs[0].pieces) == "▁the▁word"
        ids = tuple(tokens.ids for tokens in answer.outputs)
        assert await engine.detokenize(DetokenizeRequest("echo", 1, ids)) == Detokenization("echo", 1, texts)

    run(test)


def test_a_failing_model_fails_the_request_and_the_next_is_answered() -> None:
    errors: list[ServiceError] = [BackendFailed("out of order")]

    async def test(engine: Engine) -> None:
        with pytest.raises(BackendFailed, match="out of order"):
            await generate(engine, "no")
        assert (await generate(engine, "no")).outputs[0].hypotheses[0].text == "no"

    run(test, ScriptedBackend(interrupt=lambda inputs: errors.pop() if errors else None))


class Changing(ScriptedBackend):
    """A scripted backend whose versions a test sets."""

    now: tuple[ModelVersion, ...] | None = None

    def versions(self) -> tuple[ModelVersion, ...]:
        return tuple(super().versions()) if self.now is None else self.now


def test_resolve_finds_the_version_that_answers() -> None:
    async def test(engine: Engine) -> None:
        assert engine.resolve(None, None).version == 2
        assert engine.resolve("echo", 1).version == 1
        with pytest.raises(ModelNotFound, match="model 'echo' has no version 3, but 2, 1"):
            engine.resolve("echo", 3)
        with pytest.raises(ModelNotFound, match="there is no model 'ecco': name one of echo"):
            engine.resolve("ecco", None)

    run(test, ScriptedBackend({"echo": (1, 2)}))


def test_several_models_must_be_named() -> None:
    async def test(engine: Engine) -> None:
        with pytest.raises(InvalidRequest, match="'model' is missing: name one of a, b"):
            engine.resolve(None, None)
        assert engine.resolve("b", None).name == "b"

    run(test, ScriptedBackend({"a": (1,), "b": (1,)}))


def test_only_ready_versions_answer() -> None:
    backend = Changing({"echo": (1, 2)})

    async def test(engine: Engine) -> None:
        newest, oldest = backend.versions()
        refused = ModelVersion("echo", 2, VersionState.REFUSED, "its certificate differs")
        backend.now = (refused, oldest)
        assert engine.resolve("echo", None) is oldest
        assert engine.ready
        told = r"'echo': version 2 is refused \(its certificate differs\); ask for version 1$"
        with pytest.raises(ModelNotFound, match=told):
            engine.resolve("echo", 2)
        backend.now = (refused,)
        with pytest.raises(ModelNotFound, match=r"could answer: version 2 is refused \(its certificate differs\)"):
            engine.resolve("echo", 2)
        backend.now = (refused, replace(oldest, state=VersionState.LOADING))
        assert not engine.ready
        with pytest.raises(BackendUnavailable, match=r"not ready: version 2 is refused \(.*\); version 1 is loading"):
            engine.resolve("echo", None)
        backend.now = (newest, replace(oldest, name="other", state=VersionState.LOADING))
        assert engine.ready, "the other one is new, and never answered"
        assert engine.waiting == ()
        backend.now = (refused, replace(newest, name="other"))
        assert not engine.ready, "one that answered has no version any more"
        assert engine.waiting == ("echo",)
        backend.now = ()
        assert not engine.ready
        with pytest.raises(BackendUnavailable, match="no model is served"):
            engine.resolve(None, None)

    run(test, backend)


def test_a_version_that_left_since_the_request_was_read_is_not_found() -> None:
    backend = Changing({"echo": (1, 2)})

    async def test(engine: Engine) -> None:
        backend.now = tuple(backend.versions())[:1]
        with pytest.raises(ModelNotFound):
            await engine.generate(GenerationRequest("echo", 1, ("no",), asked=1), request_id="test")

    run(test, backend)
