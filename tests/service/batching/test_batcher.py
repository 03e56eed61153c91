"""The asyncio shell on the scripted backend: every call is answered once, and no slot idles while rows wait."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.backend import Arrays
from service.backends.scripted import ScriptedBackend
from service.batching import AdmittedRow, Batcher, TimedResult
from service.errors import BackendFailed, BackendUnavailable, DeadlineExceeded, Draining, Overloaded, ServiceError
from service.settings import Settings
from service.telemetry import Telemetry
from tests.support.rows import make_row
from tests.support.virtual_loop import run_virtually

POISON = 290


class Recorder:
    """An interrupt of the scripted backend that remembers every run, and fails those with a poisoned row."""

    def __init__(self, error: ServiceError | None = None) -> None:
        self.source_lengths: list[list[int]] = []
        self.error = error

    def __call__(self, inputs: Arrays) -> ServiceError | None:
        self.source_lengths.append(inputs["source_lengths"].tolist())
        return self.error if (inputs["source_ids"] == POISON).any() else None


def run(
    test: Callable[[Batcher], Awaitable[None]], backend: ScriptedBackend | None = None, **settings: Any
) -> Telemetry:
    """Run ``test`` with a batcher in a loop of its own, on a virtual clock; nothing may be left running."""
    telemetry = Telemetry()

    async def main() -> None:
        started = backend or ScriptedBackend()
        await started.start()
        batcher = Batcher(started, Settings(**settings), telemetry)
        await test(batcher)
        batcher.stop(Draining("the test is over"))
        await batcher.close()
        assert not batcher._running
        assert len(batcher._scheduler) == 0
        assert not batcher._jobs

    run_virtually(asyncio.wait_for(main(), timeout=20))
    return telemetry


def in_s(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def submit(batcher: Batcher, *rows: AdmittedRow, timeout_s: float = 10.0) -> asyncio.Task[list[TimedResult]]:
    return asyncio.create_task(batcher.run(rows, in_s(timeout_s), "test"))


def echoed(result: TimedResult) -> list[int]:
    ids: list[int] = result.row.ids[0][: result.row.lengths[0]]
    return ids


def test_answers_come_in_the_order_of_the_rows() -> None:
    async def test(batcher: Batcher) -> None:
        rows = [make_row(length, max_new_tokens=512) for length in (5, 200, 2, 90, 7)]
        results = await batcher.run(rows, in_s(10), "test")
        assert [echoed(result) for result in results] == [row.source_ids for row in rows]

    run(test)


def test_requests_of_one_moment_share_batches_and_idle_slots_share_the_rows() -> None:
    recorder = Recorder()

    async def test(batcher: Batcher) -> None:
        await asyncio.gather(*(submit(batcher, make_row(length)) for length in (4, 5, 6, 7)))

    run(test, ScriptedBackend(slots=2, interrupt=recorder))
    assert sorted(map(sorted, recorder.source_lengths)) == [[4, 5], [6, 7]]


def test_rows_wait_for_a_slot_and_then_run_together() -> None:
    recorder = Recorder()

    async def test(batcher: Batcher) -> None:
        first = submit(batcher, make_row(9))
        await asyncio.sleep(0.01)
        rest = [submit(batcher, make_row(length)) for length in (4, 5, 6)]
        await asyncio.gather(first, *rest)
        assert rest[0].result()[0].queue_s > 0.01 > first.result()[0].queue_s

    run(test, ScriptedBackend(slots=1, delay_s=0.05, interrupt=recorder))
    assert recorder.source_lengths == [[9], [4, 5, 6]]


def test_a_full_queue_refuses_the_whole_request_at_once() -> None:
    async def test(batcher: Batcher) -> None:
        running = submit(batcher, make_row())
        await asyncio.sleep(0.01)
        waiting = submit(batcher, make_row(), make_row())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="try again in") as refused:
            await batcher.run([make_row(), make_row()], in_s(10), "test")
        assert refused.value.retry_after_s == 1
        assert str(refused.value).endswith("try again in 1 s")
        third = submit(batcher, make_row())
        assert [len(await task) for task in (running, waiting, third)] == [1, 2, 1]

    run(test, ScriptedBackend(slots=1, delay_s=0.05), queue_rows=3, max_inputs=2)


def test_a_run_ends_when_nobody_waits_for_any_of_its_rows() -> None:
    async def test(batcher: Batcher) -> None:
        gone, other = submit(batcher, make_row(3)), submit(batcher, make_row(4))
        await asyncio.sleep(0.05)
        assert len(batcher._running) == 1, "both share a run, which takes an hour"
        gone.cancel()
        await asyncio.sleep(0.05)
        assert len(batcher._running) == 1, "one is still wanted"
        other.cancel()
        await asyncio.sleep(0.05)
        assert not batcher._running

    telemetry = run(test, ScriptedBackend(slots=1, delay_s=3600.0))
    observed = telemetry.request_inference_time_seconds.labels("echo", "client_closed")
    assert observed._sum.get() > 0.0


def test_a_run_that_takes_its_time_to_end_is_cancelled_once_and_keeps_its_slot() -> None:
    class Stubborn(ScriptedBackend):
        """As TensorFlow in this process, which cannot be stopped."""

        def __init__(self) -> None:
            super().__init__(slots=2)
            self.cancellations = 0
            self.may_end = asyncio.Event()

        async def predict(self, *arguments: Any, **options: Any) -> Any:
            while not self.may_end.is_set():
                try:
                    await self.may_end.wait()
                except asyncio.CancelledError:
                    self.cancellations += 1
            raise asyncio.CancelledError

    async def scenario() -> None:
        backend = Stubborn()
        await backend.start()
        batcher = Batcher(backend, Settings(), Telemetry())
        first, second = submit(batcher, make_row(3)), submit(batcher, make_row(400, max_new_tokens=512))
        await asyncio.sleep(0.05)
        assert len(batcher._running) == 2
        try:
            first.cancel()
            await asyncio.sleep(0.05)
            second.cancel()
            await asyncio.sleep(0.05)
            assert backend.cancellations == 2, "the end of the second is none of the first's business"
            assert len(batcher._running) == 2
        finally:
            backend.may_end.set()
        await asyncio.sleep(0.05)
        assert not batcher._running

    asyncio.run(asyncio.wait_for(scenario(), timeout=20))


def test_a_client_that_hangs_up_frees_its_place_and_costs_nothing() -> None:
    recorder = Recorder()

    async def test(batcher: Batcher) -> None:
        running = submit(batcher, make_row(9))
        await asyncio.sleep(0.01)
        gone = submit(batcher, make_row(5), make_row(5))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        stays = submit(batcher, make_row(4), make_row(4))
        await asyncio.gather(running, stays)

    run(test, ScriptedBackend(slots=1, delay_s=0.05, interrupt=recorder), queue_rows=2, max_inputs=2)
    assert recorder.source_lengths == [[9], [4, 4]]


def test_a_passed_deadline_is_answered_in_time_while_waiting_and_while_running() -> None:
    recorder = Recorder()

    async def test(batcher: Batcher) -> None:
        started = in_s(0)
        running = submit(batcher, make_row(9), timeout_s=0.2)
        companion = submit(batcher, make_row(9), timeout_s=10)
        await asyncio.sleep(0.01)
        waiting = submit(batcher, make_row(5), timeout_s=0.2)
        for task in (running, waiting):
            with pytest.raises(DeadlineExceeded):
                await task
        assert in_s(0) - started < 0.9
        assert len(await companion) == 1

    run(test, ScriptedBackend(slots=1, delay_s=1.0, interrupt=recorder))
    assert recorder.source_lengths == [[9, 9]], "the late row that waited never ran"


def test_one_bad_row_fails_its_own_request_alone() -> None:
    recorder = Recorder(BackendFailed("a row that the graph cannot take"))

    async def test(batcher: Batcher) -> None:
        good = [submit(batcher, make_row(4)) for _ in range(3)]
        bad = submit(batcher, make_row(4), make_row(4, first_id=POISON))
        assert [echoed(result) for task in good for result in await task] == [[260, 261, 262, 3]] * 3
        with pytest.raises(BackendFailed, match="cannot take"):
            await bad

    run(test, ScriptedBackend(slots=1, interrupt=recorder))
    assert recorder.source_lengths[0] == [4] * 5
    assert all(lengths == [4] for lengths in recorder.source_lengths[1:])
    assert len(recorder.source_lengths) <= 6, "each row runs once more at most"


def test_an_unreachable_backend_fails_every_row_and_is_not_asked_again() -> None:
    recorder = Recorder(BackendUnavailable("gone"))

    async def test(batcher: Batcher) -> None:
        tasks = [submit(batcher, make_row(4)), submit(batcher, make_row(4, first_id=POISON))]
        for task in tasks:
            with pytest.raises(BackendUnavailable):
                await task

        assert len({id(task.exception()) for task in tasks}) == 2, "each caller has an error of its own"

    run(test, ScriptedBackend(slots=1, interrupt=recorder))
    assert recorder.source_lengths == [[4, 4]]


def test_a_fault_of_our_own_is_answered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def interrupt(inputs: Arrays) -> None:
        raise ZeroDivisionError("a bug")

    async def test(batcher: Batcher) -> None:
        with pytest.raises(BackendFailed, match="could not be run"):
            await submit(batcher, make_row())

    run(test, ScriptedBackend(interrupt=interrupt))
    assert "a bug" in caplog.text


def test_after_stop_everything_is_answered_with_its_error() -> None:
    async def test(batcher: Batcher) -> None:
        tasks = [submit(batcher, make_row()) for _ in range(3)]
        await asyncio.sleep(0.01)
        batcher.stop(Draining("stopping"))
        tasks += [submit(batcher, make_row()) for _ in range(2)]
        for task in tasks:
            with pytest.raises(Draining):
                await task
        assert len({id(task.exception()) for task in tasks}) == 5, "each caller has an error of its own"

    run(test, ScriptedBackend(slots=1, delay_s=0.05))


def test_batches_are_measured() -> None:
    async def test(batcher: Batcher) -> None:
        await batcher.run([make_row(4), make_row(2)], in_s(10), "test")
        value = telemetry_of(batcher).registry.get_sample_value
        assert value("malgil_num_requests_waiting") == 0
        assert value("malgil_num_requests_running") == 0

    def telemetry_of(batcher: Batcher) -> Telemetry:
        return batcher._telemetry

    telemetry = run(test, ScriptedBackend(slots=1))
    labels = {"model_name": "echo"}
    assert telemetry.registry.get_sample_value("malgil_batch_size_sum", labels) == 2
    assert telemetry.registry.get_sample_value("malgil_batch_padding_ratio_sum", labels) == 0.25


def test_runs_that_fail_are_measured_too_and_each_text_waits_once() -> None:
    recorder = Recorder(BackendFailed("a row that the graph cannot take"))

    async def test(batcher: Batcher) -> None:
        good, bad = submit(batcher, make_row(4)), submit(batcher, make_row(4, first_id=POISON))
        await asyncio.wait([good, bad])

    value = run(test, ScriptedBackend(slots=1, interrupt=recorder)).registry.get_sample_value
    counts = {
        outcome: value("malgil_request_inference_time_seconds_count", {"model_name": "echo", "outcome": outcome})
        for outcome in ("answered", "generation")
    }
    assert counts == {"answered": 1, "generation": 2}, "together, then each alone"
    assert value("malgil_request_queue_time_seconds_count", {"model_name": "echo"}) == 2


@hypothesis_settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_every_call_is_answered_once_whatever_happens(seed: int) -> None:
    """Random sizes, beams, hang-ups, deadlines and bad rows at once; each answer is the row's own."""
    chance = random.Random(seed)
    recorder = Recorder(BackendFailed("a row that the graph cannot take"))

    async def call(batcher: Batcher) -> str:
        beam_size = chance.choice((1, 1, 1, 3))
        poisoned = chance.random() < 0.1
        rows = [make_row(chance.randint(2, 30), beam_size=beam_size) for _ in range(chance.randint(1, 5))]
        if poisoned:
            rows.append(make_row(3, first_id=POISON, beam_size=beam_size))
        await asyncio.sleep(chance.random() * 0.02)
        task = submit(batcher, *rows, timeout_s=chance.choice((0.005, 5.0, 5.0)))
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() * 0.01)
            task.cancel()
        try:
            results = await task
        except asyncio.CancelledError:
            return "hung up"
        except (DeadlineExceeded, Overloaded, BackendFailed) as error:
            return f"{type(error).__name__}{', poisoned' if poisoned else ''}"
        assert not poisoned
        for row, result in zip(rows, results, strict=True):
            assert np.array_equal(echoed(result), row.source_ids)
        return "answered"

    async def test(batcher: Batcher) -> None:
        outcomes = await asyncio.gather(*(call(batcher) for _ in range(40)))
        assert len(outcomes) == 40
        assert "answered" in outcomes
        assert "BackendFailed" not in outcomes

    run(test, ScriptedBackend(slots=2, delay_s=0.002, interrupt=recorder), queue_rows=60, max_inputs=6)
    assert all(len(lengths) <= 32 for lengths in recorder.source_lengths)


def test_slots_that_are_added_are_used_at_once() -> None:
    class Growing(ScriptedBackend):
        slots = 1

    backend = Growing(slots=2, delay_s=0.2)

    async def test(batcher: Batcher) -> None:
        waiting = [asyncio.ensure_future(batcher.run([make_row(4, beam_size=beam)], in_s(5), "a")) for beam in (1, 2)]
        await asyncio.sleep(0.01)
        assert len(batcher._running) == 1
        backend.slots = 2
        backend.set_versions(backend.versions())
        await asyncio.sleep(0.01)
        assert len(batcher._running) == 2
        await asyncio.gather(*waiting)

    run(test, backend)
