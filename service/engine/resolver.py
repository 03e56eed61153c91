"""Which version answers each request, while versions come and go and labels move."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, TypeVar

from service.backend import Backend, ModelVersion
from service.engine.labels import LabelsFile
from service.engine.versions import Versions
from service.errors import BackendFailed, BackendUnavailable, ModelNotFound
from service.generation import DetokenizeRequest, GenerationRequest, ScoreRequest, TokenizeRequest
from service.settings import Settings
from service.validation import refit

MOST_RUNS: Final = 8
"""Of one request, whose versions go again and again while it runs."""
PATIENCE_POLLS: Final = 3
"""Looks for versions after one that is gone: so long a request waits for another to take its place."""

T = TypeVar("T")
Request = TypeVar("Request", GenerationRequest, ScoreRequest, TokenizeRequest, DetokenizeRequest)


class Resolver:
    """Follows the backend's versions and the file of labels; belongs to one event loop."""

    def __init__(
        self, backend: Backend, settings: Settings, chance: random.Random, listener: Callable[[], None]
    ) -> None:
        """``listener`` is called in the loop when versions or labels have changed."""
        self.versions = Versions(backend, chance)
        self._backend = backend
        self._labels: LabelsFile | None = None
        if settings.labels_file is not None:
            self._labels = LabelsFile(settings.labels_file, settings.version_poll_s)
        self._watching: asyncio.Task[None] | None = None
        self._kept: dict[str, frozenset[int]] = {}
        self._patience_s = PATIENCE_POLLS * settings.version_poll_s
        self._started = False
        self._stopped = False
        self._listener = listener
        self._changes = 0
        self._change = asyncio.Event()  # the next
        backend.subscribe(self._versions_changed)

    @property
    def labels_error(self) -> str | None:
        """What is wrong with the file of labels as it is now; those read before are in force."""
        return self._labels.error if self._labels is not None else None

    async def read_labels(self) -> None:
        """Tell the backend, which starts next, what labels name. Raises LabelsError."""
        if self._labels is not None:
            await self._labels.read()
            self.versions.set_labels(self._labels.labels)
            self._keep()

    def start(self) -> None:
        """Let labels hold, now that the backend has started, and watch them."""
        self._started = True
        self._versions_changed()
        if self._labels is not None:
            self._watching = asyncio.create_task(self._labels.watch(self._labels_changed))

    def stop(self) -> None:
        """Watch no more, and let no request wait for a version."""
        self._stopped = True
        self._wake()
        if self._watching is not None:
            self._watching.cancel()

    async def answer(
        self, request: Request, deadline: float, run: Callable[[Request, ModelVersion], Awaitable[T]]
    ) -> T:
        """What ``run`` makes of the request and its version.

        If that goes before it has answered, the request, unless it asked for this very one, is the next one's. If
        another tokenizer takes its place under the same number, what ran meanwhile may have run on ids that stand for
        other tokens there, and runs again.
        """
        gone: dict[int, int] = {}  # since which change
        runs = 0
        while True:
            runs += 1
            served = self.versions.ready(request.model, request.version)
            if served is None and isinstance(request.asked, int):
                served = self.versions.resolve(request.model, request.asked)  # says what is wrong
            if served is not None:
                other: ModelVersion | None = None
                try:
                    answer = await run(request, served)
                    other = self._with_another_tokenizer(served)
                    if other is None or runs == MOST_RUNS:
                        return answer
                except BackendFailed:
                    other = self._with_another_tokenizer(served)
                    if other is None or runs == MOST_RUNS:
                        raise
                except ModelNotFound:
                    if isinstance(request.asked, int) or runs == MOST_RUNS:
                        raise
                if other is not None:
                    request = refit(request, other)
                    continue
            gone[request.version] = self._changes
            request = refit(request, await self._resolve_anew(request, gone, deadline))

    def _with_another_tokenizer(self, served: ModelVersion) -> ModelVersion | None:
        """What has taken the place of ``served`` under its number, if it is READY and tokenizes in another way."""
        now = self.versions.ready(served.name, served.version)
        return None if now is None or now.tokenizer == served.tokenizer else now

    async def _resolve_anew(self, request: Request, gone: Mapping[int, int], deadline: float) -> ModelVersion:
        """A version that takes the place of one that is gone, which the backend may notice only a little later."""
        loop = asyncio.get_running_loop()
        give_up = min(deadline, loop.time() + self._patience_s)
        while True:
            change = self._change
            try:
                now_gone = {version for version, since in gone.items() if since == self._changes}
                return self.versions.resolve(request.model, request.asked, now_gone)
            except (ModelNotFound, BackendUnavailable):
                if self._stopped or loop.time() >= give_up:
                    raise
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(change.wait(), give_up - loop.time())

    def _labels_changed(self) -> None:
        assert self._labels is not None
        self.versions.set_labels(self._labels.labels)
        self._versions_changed()

    def _versions_changed(self) -> None:
        if self._started:  # before, labels would be refused for what is still to be loaded
            self.versions.refresh()
            self._keep()
        self._changes += 1
        self._wake()
        self._listener()

    def _keep(self) -> None:
        named = self.versions.named()
        if named != self._kept:
            self._kept = named
            self._backend.keep(named)

    def _wake(self) -> None:
        self._change.set()
        self._change = asyncio.Event()
