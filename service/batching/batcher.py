"""The asyncio shell around ``Scheduler``: keeps the backend's slots busy and brings every answer home.

A free slot takes what fits at once; nothing waits on a timer while a slot is idle. Every job is answered once: by its
results, an error, or its deadline, whichever is first.

When a batch of several rows fails in the graph, its rows run once more, each alone: one row that the graph cannot take
must not fail strangers, and generation has no side effects, so that running it again is safe. A row that fails alone
fails its request. An unreachable backend or a passed deadline says nothing of a single row: these go to every row.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from service.backend import Backend
from service.batching.jobs import Batch, Job, deadline_exceeded
from service.batching.profiles import Profiles, machine_of
from service.batching.rows import Row, TimedResult, batch_inputs, padding_ratio, split_outputs
from service.batching.scheduler import Scheduler
from service.errors import BackendFailed, ServiceError, outcome
from service.settings import Settings
from service.telemetry import Telemetry, log_event


class Batcher:
    """Runs admitted rows on a backend; belongs to one event loop."""

    def __init__(
        self, backend: Backend, settings: Settings, telemetry: Telemetry, scheduler: Scheduler | None = None
    ) -> None:
        """``scheduler``: by default one within the bounds of the settings."""
        self._backend = backend
        self._telemetry = telemetry
        if scheduler is None:
            scheduler = Scheduler(settings.queue_rows, settings.max_batch_rows, settings.max_batch_tokens)
        self._scheduler = scheduler
        self._profiles = Profiles(machine_of(settings))
        self._read_profiles()
        self._jobs: set[Job] = set()
        self._running: dict[asyncio.Task[list[TimedResult]], Batch] = {}
        self._dispatch_is_scheduled = False
        self._stopped: ServiceError | None = None
        backend.subscribe(self._backend_changed)
        telemetry.num_requests_waiting.set_function(lambda: len(self._scheduler))
        telemetry.num_requests_running.set_function(lambda: sum(len(batch.entries) for batch in self._running.values()))

    async def run(self, rows: Sequence[Row], deadline: float, request_id: str) -> list[TimedResult]:
        """The result of every row, in their order.

        Args:
            rows: at least one, all of one model.
            deadline: on the loop's clock.
            request_id: for the logs.

        Raises:
            Overloaded: there is no room for all of them, or not the time; none was taken.
            DeadlineExceeded: the deadline has passed.
            BackendFailed, BackendUnavailable: so the backend said of one of the rows.
            asyncio.CancelledError: the caller was cancelled; its rows' places are free.
        """
        if self._stopped is not None:
            raise self._stopped.copy()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def on_close(job: Job) -> None:
            self._scheduler.discard(job)
            self._jobs.discard(job)
            self._cancel_unwanted(job)
            if not done.done():
                done.set_result(None)

        job = Job(rows, deadline, on_close, request_id)
        self._scheduler.offer(job, loop.time(), self._backend.slots)
        self._jobs.add(job)
        timer = loop.call_at(deadline, lambda: job.fail(deadline_exceeded()))
        self._schedule_dispatch()
        try:
            await done
        finally:
            timer.cancel()
            job.abandon()
        if job.error is not None:
            raise job.error.copy()  # one error may answer many jobs
        return [job.results[index] for index in range(len(rows))]

    def stop(self, error: ServiceError) -> None:
        """Answer everything that waits or runs with ``error``, and from now on every call."""
        self._stopped = error
        for job in list(self._jobs):
            job.fail(error)

    async def close(self) -> None:
        """Wait for the batches that run; call ``stop`` first, or more may start."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def _backend_changed(self) -> None:
        """There may be other versions, and more slots."""
        self._read_profiles()
        self._schedule_dispatch()

    def _read_profiles(self) -> None:
        self._scheduler.costs.expect(self._profiles.read(self._backend.versions()))

    def _schedule_dispatch(self) -> None:
        """Dispatch when the loop has run what is ready now: requests that arrive in one go may share a batch."""
        if not self._dispatch_is_scheduled:
            self._dispatch_is_scheduled = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_is_scheduled = False
        loop = asyncio.get_running_loop()
        while free_slots := max(0, self._backend.slots - len(self._running)):
            batch = self._scheduler.next_batch(loop.time(), free_slots)
            if batch is None:
                break
            task = loop.create_task(self._predict(batch))
            self._running[task] = batch
            task.add_done_callback(self._batch_ended)

    async def _predict(self, batch: Batch) -> list[TimedResult]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        rows = [entry.row for entry in batch.entries]
        model, version = rows[0].model, rows[0].version
        timeout_s = max(entry.job.deadline for entry in batch.entries) - started
        self._observe_start(model, batch, started)
        error: BaseException | None = None
        try:
            outputs = await self._backend.predict(model, version, rows[0].signature, batch_inputs(rows), timeout_s)
            results = split_outputs(outputs, rows)
        except BaseException as caught:
            error = caught
            raise
        finally:
            inference_s = loop.time() - started
            self._telemetry.request_inference_time_seconds.labels(model, outcome(error)).observe(inference_s)
        return [
            TimedResult(result, started - entry.enqueued_at, inference_s)
            for entry, result in zip(batch.entries, results, strict=True)
        ]

    def _cancel_unwanted(self, closed: Job) -> None:
        """End the runs that ``closed`` was the last to wait for; each once, as a backend may take its time over it."""
        for task, batch in self._running.items():
            jobs = {entry.job for entry in batch.entries}
            if closed in jobs and all(job.closed for job in jobs):
                task.cancel()

    def _batch_ended(self, task: asyncio.Task[list[TimedResult]]) -> None:
        batch = self._running.pop(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        results = None if error else task.result()
        self._scheduler.ended(batch, asyncio.get_running_loop().time(), results)
        if results is not None:
            for entry, result in zip(batch.entries, results, strict=True):
                entry.job.deliver(entry.index, result)
        elif all(entry.job.closed for entry in batch.entries):
            pass  # nobody waits for it: it was cancelled for that, or ended so at the same time
        elif isinstance(error, BackendFailed) and len(batch.entries) > 1:
            self._log_failure(error, batch, "batch failed, its rows run again alone")
            self._scheduler.put_back_alone(batch)
        else:
            self._log_failure(error, batch, "batch failed")
            answer = error if isinstance(error, ServiceError) else BackendFailed("the model could not be run")
            for entry in batch.entries:
                entry.job.fail(answer)
        self._dispatch()

    def _log_failure(self, error: BaseException | None, batch: Batch, event: str) -> None:
        row, expected = batch.entries[0].row, isinstance(error, ServiceError)
        log_event(
            event,
            logging.WARNING if expected else logging.ERROR,
            error=None if expected else error,
            reason=str(error),
            model_name=row.model,
            model_version=row.version,
            rows=len(batch.entries),
            request_ids=list(dict.fromkeys(entry.job.request_id for entry in batch.entries)),
        )

    def _observe_start(self, model: str, batch: Batch, started: float) -> None:
        self._telemetry.batch_size.labels(model).observe(len(batch.entries))
        ratio = padding_ratio([entry.row for entry in batch.entries])
        self._telemetry.batch_padding_ratio.labels(model).observe(ratio)
        queue_time = self._telemetry.request_queue_time_seconds.labels(model)
        for entry in batch.entries:
            if not entry.alone:  # else it had its slot before
                queue_time.observe(started - entry.enqueued_at)
