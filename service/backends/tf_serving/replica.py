"""One TF Serving process: what it has, whether it answers, and the calls to it.

It is looked at again and again. What it has newly loaded is examined there, on this very replica, before it may answer
anybody: another one with the same files proves nothing. A replica that cannot be reached, or fails repeatedly, is set
aside until a look succeeds; what it had certified it then only describes again, which takes milliseconds, and is
examined anew where that differs.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from model_export.contract import SIGNATURES, ContractError
from service import certificate
from service.backend import Arrays, VersionState
from service.backends.signatures import check_inputs, check_outputs
from service.backends.tf_serving import wire
from service.backends.tf_serving.agreement import Artifact, Key, Word
from service.backends.tf_serving.statuses import service_error, without_addresses
from service.certificate import MostRows
from service.errors import BackendFailed, BackendUnavailable, DeadlineExceeded, ModelNotFound, Overloaded, ServiceError
from service.telemetry import log_event

STATUS_TIMEOUT_S: Final = 2.0
EXAMINATION_TIMEOUT_S: Final = 120.0
"""Of one call: the first run of a large graph is slow."""
MAX_FAILURES: Final = 3
"""So many failures in a row set a replica aside."""
UNREACHABLE: Final = "TF Serving does not answer"


class Replica:
    """A channel to one TF Serving, and what is known of it; belongs to one event loop."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        models: Sequence[str],
        *,
        most_rows: MostRows,
        poll_s: float,
        changed: Callable[[], None],
    ) -> None:
        """
        Args:
            channel: to this replica alone; closed with it.
            models: names to ask for.
            most_rows: of the batches to warm up for.
            poll_s: time between two looks.
            changed: is called whenever ``words`` or ``is_up`` may have changed.
        """
        self.words: dict[Key, Word] = {}
        self.is_up = False
        self.was_looked_at = False
        self.failures = 0  # of calls, in a row
        self._channel = channel
        self._predict = channel.unary_unary(wire.PREDICT)
        self._get_status = channel.unary_unary(wire.GET_MODEL_STATUS)
        self._models = models
        self._most_rows = most_rows
        self._poll_s = poll_s
        self._changed = changed
        self._calls: set[Any] = set()  # those that ``running`` counts
        self._failed_looks = 0  # in a row
        self._missing: set[str] = set()  # models of which there is no version
        self._look_now = asyncio.Event()
        self._in_doubt = False  # the connection was lost: another process may have taken the place
        self._examinations: dict[Key, asyncio.Task[None]] = {}
        self._examination = asyncio.Lock()  # one at a time: they share the replica with those who wait for answers
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._watch_connection())]

    @property
    def running(self) -> int:
        """Calls of ``predict`` that are not answered yet."""
        return len(self._calls)

    @property
    def is_examining(self) -> bool:
        """Whether the word on a version is being found out now."""
        return bool(self._examinations)

    async def predict(self, key: Key, request: bytes, timeout_s: float | None) -> bytes:
        """The serialized PredictResponse to a PredictRequest for the version ``key``.

        Raises:
            ServiceError: as ``statuses`` has it.
        """
        call = self._predict(request, timeout=timeout_s)
        self._calls.add(call)
        try:
            response = await self._answer(call)
        except ModelNotFound:
            self._forget([key])
            self._look_now.set()
            self._changed()
            raise
        except BackendUnavailable:
            self.failures += 1
            if self.failures < MAX_FAILURES:
                self._look_now.set()
            else:
                self._set_aside()
            raise
        except asyncio.CancelledError as error:
            if call in self._calls:  # it is the caller who was cancelled
                raise
            raise BackendUnavailable("TF Serving was given up while it ran the model") from error
        finally:
            self._calls.discard(call)
        self.failures = 0
        return response

    async def close(self) -> None:
        """End calls that run with BackendUnavailable, and the connection."""
        examinations = list(self._examinations.values())
        self._forget(list(self.words))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *examinations, return_exceptions=True)
        self._give_up_calls()
        await self._channel.close()

    # --- looking ------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._look_now.clear()
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001  a fault of ours must not end the looking
                log_event("a look at TF Serving failed", logging.ERROR, error=error)
            self.was_looked_at = True
            self._changed()
            # Not asyncio.wait_for: before Python 3.12 it swallows a cancellation that comes just as the event is set.
            timer = loop.call_later(self._poll_s, self._look_now.set)
            try:
                await self._look_now.wait()
            finally:
                timer.cancel()

    async def _watch_connection(self) -> None:
        """A lost connection is looked into at once."""
        state = self._channel.get_state()
        while True:
            await self._channel.wait_for_state_change(state)
            before, state = state, self._channel.get_state()
            if before is grpc.ChannelConnectivity.READY:
                self._in_doubt = True
                self._look_now.set()

    async def _look(self) -> None:
        in_doubt, self._in_doubt = self._in_doubt, False
        try:
            found = await asyncio.gather(*map(self._statuses, self._models))
        except ServiceError as error:
            self._in_doubt |= in_doubt
            self._look_failed(error)
            return
        self._failed_looks = 0
        if not self.is_up:
            self.is_up, self.failures = True, 0
            log_event("TF Serving answers")
        self._tell_missing({name for name, of_model in zip(self._models, found, strict=True) if not of_model})
        statuses = {
            (name, version): status
            for name, of_model in zip(self._models, found, strict=True)
            for version, status in of_model.items()
        }
        self._forget([key for key in self.words if key not in statuses])
        for key, status in statuses.items():
            word = self.words.get(key)
            if status.state is not VersionState.READY:
                self._end_examination(key)
                self._say(key, Word(status.state, status.reason))
            elif key not in self._examinations and (in_doubt or word is None or word.state is VersionState.LOADING):
                if word is None:
                    self._say(key, Word(VersionState.LOADING, "its certificate is replayed"))
                self._examinations[key] = asyncio.create_task(self._examine(key, word.artifact if word else None))

    async def _statuses(self, model: str) -> dict[int, wire.VersionStatus]:
        try:
            return wire.version_statuses(
                await self._answer(self._get_status(wire.status_request(model), timeout=STATUS_TIMEOUT_S))
            )
        except ModelNotFound:
            return {}

    def _tell_missing(self, models: set[str]) -> None:
        for name in models - self._missing:
            log_event("TF Serving has no version of a model", logging.WARNING, model_name=name)
        self._missing = models

    def _look_failed(self, error: ServiceError) -> None:
        """Set the replica aside if it is known to be down, or says nothing again and again."""
        if isinstance(error, Overloaded):  # a busy one is alive
            return
        if not self._failed_looks:
            log_event("TF Serving does not answer", logging.WARNING, reason=without_addresses(error))
        self._failed_looks += 1
        if isinstance(error, BackendUnavailable) or self._failed_looks >= MAX_FAILURES:
            self._set_aside()
        elif self.is_up:
            self._look_now.set()

    def _set_aside(self) -> None:
        if not self.is_up:
            return
        self.is_up = False
        log_event("TF Serving is set aside", logging.WARNING, failures=self.failures, failed_looks=self._failed_looks)
        words = dict(self.words)
        self._forget(words)
        # Whatever it says after its return has to be found out anew; a certificate kept before makes that short.
        self.words = {key: Word(VersionState.LOADING, UNREACHABLE, word.artifact) for key, word in words.items()}
        self._changed()
        self._give_up_calls()

    def _give_up_calls(self) -> None:
        """End the calls that run, which may never be answered: others are asked while there is time."""
        calls, self._calls = self._calls, set()
        for call in calls:
            call.cancel()

    # --- examining ----------------------------------------------------------------------------------------------------

    async def _examine(self, key: Key, known: Artifact | None) -> None:
        """Find out the word on a version that TF Serving has loaded, and has certified before if it is ``known``."""
        async with self._examination:
            started = time.monotonic()
            word = await self._examined(key, known)
        del self._examinations[key]
        if word is None:
            self._forget([key])
        else:
            self._say(key, word, seconds=round(time.monotonic() - started, 3))
        self._changed()

    async def _examined(self, key: Key, known: Artifact | None) -> Word | None:
        predict = functools.partial(self._run, key)
        try:
            if known is not None:
                described = Artifact(*await certificate.describe(predict))
                if described.is_same_model(known):
                    return Word(VersionState.READY, None, described)
            return Word(VersionState.READY, None, Artifact(*await certificate.examine(predict, self._most_rows)))
        except ModelNotFound:
            return None
        except (BackendUnavailable, Overloaded, DeadlineExceeded) as error:
            return Word(VersionState.LOADING, error.message, known)  # that proves nothing: the next look tries again
        except (ServiceError, ContractError) as error:
            return Word(VersionState.REFUSED, str(error))
        except Exception as error:  # noqa: BLE001  whatever a broken artifact does, the others go on
            log_event("an examination failed", logging.ERROR, error=error, model_name=key[0], model_version=key[1])
            return Word(VersionState.REFUSED, f"{type(error).__name__}: {wire.first_line(str(error))}")

    async def _run(self, key: Key, signature: str, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        request, rows = encode(key, signature, inputs)
        response = await self._answer(self._predict(request, timeout=EXAMINATION_TIMEOUT_S))
        return decode(signature, response, rows)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _say(self, key: Key, word: Word, **fields: Any) -> None:
        before = self.words.get(key)
        self.words[key] = word
        if before is None or before.state is not word.state:
            level = logging.ERROR if word.state is VersionState.REFUSED else logging.INFO
            if word.reason:
                fields["reason"] = word.reason
            log_event(f"version {word.state.value}", level, model_name=key[0], model_version=key[1], **fields)

    def _forget(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.words.pop(key, None)
            self._end_examination(key)

    def _end_examination(self, key: Key) -> None:
        if key in self._examinations:
            self._examinations.pop(key).cancel()

    async def _answer(self, call: Any) -> bytes:
        """What comes of a call. Raises ServiceError."""
        try:
            response: bytes = await call
        except grpc.aio.AioRpcError as error:
            raise service_error(error.code(), error.details()) from error
        return response


def encode(key: Key, signature: str, inputs: Arrays) -> tuple[bytes, int]:
    """The serialized request for a signature of the version ``key``, and its rows.

    Raises:
        BackendFailed: TF Serving might take it, and should not.
    """
    spec = SIGNATURES.get(signature)
    if spec is None:
        raise BackendFailed(f"there is no signature {signature!r}")
    rows = check_inputs(signature, spec, inputs)
    return wire.predict_request(*key, signature, inputs), rows


def decode(signature: str, response: bytes, rows: int) -> dict[str, NDArray[np.generic]]:
    """The outputs in a serialized response. Raises BackendFailed if they are not what the signature promises."""
    outputs = wire.predict_outputs(response)
    check_outputs(signature, SIGNATURES[signature], outputs, rows)
    return outputs
