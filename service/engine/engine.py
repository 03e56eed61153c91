"""The engine itself.

A request is answered by its deadline, with its texts or with an error of ``service.errors``; cancelling the caller's
task takes its rows out of the queue.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence

from service.backend import Backend, ModelVersion, VersionState
from service.engine.intake import Intake
from service.engine.resolver import Resolver
from service.engine.runs import Runs
from service.engine.versions import ModelStatus
from service.errors import Draining
from service.generation import (
    DRAWN_SEEDS,
    Detokenization,
    DetokenizeRequest,
    Generation,
    GenerationOptions,
    GenerationRequest,
    ScoreRequest,
    Scoring,
    Tokenization,
    TokenizeRequest,
    VersionChoice,
)
from service.settings import Settings
from service.telemetry import Telemetry


class Engine:
    """Answers requests with the models of one backend; belongs to one event loop."""

    def __init__(
        self, backend: Backend, settings: Settings, telemetry: Telemetry, chance: random.Random | None = None
    ) -> None:
        """``chance``: for the splits of labels, for seeds, and for which texts are compared; None: unlike each time."""
        self._backend = backend
        self._telemetry = telemetry
        self._chance = chance or random.Random()
        self._intake = Intake(settings)
        self._runs = Runs(backend, settings, telemetry, self._chance)
        self._resolver = Resolver(backend, settings, self._chance, self._tell)
        self._listeners: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Load the models; returns once every one is READY or REFUSED.

        Raises:
            LabelsError: the file of labels cannot be read or is wrong.
            BackendUnavailable: there are no models.
        """
        await self._resolver.read_labels()
        await self._backend.start()
        for version in self._backend.versions():
            if version.state is VersionState.READY:
                self._runs.parts(version)
        self._resolver.start()

    @property
    def ready(self) -> bool:
        """Whether requests are answered now: every model has a version for those that name none, nothing drains.

        Once that was so, a model that comes new counts from when it has one.
        """
        return not self._intake.draining and self._resolver.versions.all_answer()

    @property
    def waiting(self) -> tuple[str, ...]:
        """The models that have no version yet, or no more, without which the engine is not ready."""
        return self._resolver.versions.waiting()

    @property
    def draining(self) -> bool:
        """Whether requests are refused because the server is stopping."""
        return self._intake.draining

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called, in the event loop, whenever versions, labels or ``ready`` have changed."""
        self._listeners.append(listener)

    def models(self) -> Sequence[ModelVersion]:
        """Every version of every model, by name, newest first."""
        return self._backend.versions()

    def status(self) -> tuple[ModelStatus, ...]:
        """Every model with its versions and labels, by name."""
        return self._resolver.versions.status()

    @property
    def labels_error(self) -> str | None:
        """What is wrong with the file of labels as it is now; those read before are in force."""
        return self._resolver.labels_error

    def resolve(self, model: str | None, version: VersionChoice) -> ModelVersion:
        """The READY version that answers a request for ``model`` (None: the only one) and ``version``.

        Raises:
            InvalidRequest: no model is named and several are served.
            ModelNotFound: there is no such model, version or label, or the version was refused.
            BackendUnavailable: it is still loading; nothing that the label stands for is ready.
        """
        return self._resolver.versions.resolve(model, version)

    async def generate(
        self, request: GenerationRequest, *, request_id: str, timeout_s: float | None = None
    ) -> Generation:
        """Generate from every text of the request.

        Args:
            request: from ``validation.parse_generate``.
            request_id: for the logs.
            timeout_s: time until the answer. None: the server's default; more than its maximum: the maximum.

        Raises:
            InvalidRequest, ModelNotFound, Overloaded, Draining, DeadlineExceeded, BackendFailed, BackendUnavailable.
            asyncio.CancelledError: the caller hung up; the rows' places are free again.
        """
        latency = self._telemetry.e2e_request_latency_seconds
        with self._intake.accepted(request_id, timeout_s, request.model, latency) as call:
            run = functools.partial(self._runs.generate, call, self._seed(request.options, len(request.inputs)))
            return await self._resolver.answer(request, call.deadline, run)

    async def score(self, request: ScoreRequest, *, request_id: str, timeout_s: float | None = None) -> Scoring:
        """The probability of every target, given its text; arguments and errors as of ``generate``."""
        latency = self._telemetry.e2e_score_latency_seconds
        with self._intake.accepted(request_id, timeout_s, request.model, latency) as call:
            return await self._resolver.answer(request, call.deadline, functools.partial(self._runs.score, call))

    async def tokenize(self, request: TokenizeRequest) -> Tokenization:
        """Ids and pieces of every text.

        Raises:
            InvalidRequest: there are more than ``MAX_TOKENIZED``.
            ModelNotFound, BackendUnavailable, Draining. DeadlineExceeded, BackendFailed: of the graph that tokenizes.
        """
        with self._intake.accepted() as call:
            return await self._resolver.answer(request, call.deadline, functools.partial(self._runs.tokenize, call))

    async def detokenize(self, request: DetokenizeRequest) -> Detokenization:
        """The text of every sequence of ids.

        Raises:
            ModelNotFound, BackendUnavailable, Draining. DeadlineExceeded, BackendFailed: of the graph that tokenizes.
        """
        with self._intake.accepted() as call:
            return await self._resolver.answer(request, call.deadline, functools.partial(self._runs.detokenize, call))

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and finish the accepted; what is left after ``timeout_s`` gets Draining (then: False)."""
        if not self._intake.draining:
            self._intake.draining = True
            self._tell()
        if await self._intake.drain(timeout_s):
            return True
        self._resolver.stop()
        self._runs.stop(Draining("the server stopped before this request was answered: send it again"))
        return False

    async def close(self) -> None:
        """Answer what is left with Draining and close the backend, which ends the batches that still run."""
        await self.drain(0.0)
        self._resolver.stop()
        await self._runs.close()

    def _seed(self, options: GenerationOptions, texts: int) -> int:
        if options.seed is None:
            return self._chance.randrange(DRAWN_SEEDS - texts) if options.do_sample else 0
        return options.seed

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
