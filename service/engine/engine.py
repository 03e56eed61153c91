"""The engine itself.

A request is answered by its deadline, with its texts or with an error of ``service.errors``; cancelling the caller's
task takes its rows out of the queue.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from model_export.contract import Manifest
from service.backend import Arrays, Backend, ModelVersion, VersionState
from service.batching import Batcher
from service.engine.admission import admit
from service.engine.answers import assemble
from service.engine.off_loop import off_loop_if_long
from service.engine.resolver import Resolver
from service.engine.tokenizer_check import TokenizerCheck
from service.engine.tokenizing import Predict, detokenize, graph_tokenizes, tokenize
from service.engine.versions import ModelStatus
from service.errors import BackendUnavailable, Draining, outcome
from service.generation import (
    DETAILED,
    Detokenization,
    DetokenizeRequest,
    Generation,
    GenerationRequest,
    RowOutput,
    StageTimings,
    Tokenization,
    TokenizeRequest,
    VersionChoice,
)
from service.settings import Settings
from service.telemetry import Telemetry
from service.tokenization import SentencePieceTokenizer, Tokenizer


class Engine:
    """Answers requests with the models of one backend; belongs to one event loop."""

    def __init__(
        self, backend: Backend, settings: Settings, telemetry: Telemetry, chance: random.Random | None = None
    ) -> None:
        """``chance``: for the splits of labels and for samples; None: unlike in every process."""
        self._backend = backend
        self._settings = settings
        self._telemetry = telemetry
        self._batcher = Batcher(backend, settings, telemetry)
        chance = chance or random.Random()
        self._resolver = Resolver(backend, settings, chance, self._tell)
        self._tokenizer_check = TokenizerCheck(backend, settings, telemetry, chance)
        self._tokenizers: dict[bytes, Tokenizer] = {}  # by model, for the versions there are
        self._active = 0
        self._draining = False
        self._idle = asyncio.Event()
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
                self._parts(version)
        self._resolver.start()

    @property
    def ready(self) -> bool:
        """Whether requests are answered now: every model has a version for those that name none, nothing drains.

        Once that was so, a model that comes new counts from when it has one.
        """
        return not self._draining and self._resolver.versions.all_answer()

    @property
    def waiting(self) -> tuple[str, ...]:
        """The models that have no version yet, or no more, without which the engine is not ready."""
        return self._resolver.versions.waiting()

    @property
    def draining(self) -> bool:
        """Whether requests are refused because the server is stopping."""
        return self._draining

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
        with self._timed(request.model), self._accepted():
            started = asyncio.get_running_loop().time()
            deadline = self._deadline(timeout_s)

            async def answer(request: GenerationRequest, served: ModelVersion) -> Generation:
                return await self._generate(request, served, started, deadline, request_id)

            return await self._resolver.answer(request, deadline, answer)

    async def tokenize(self, request: TokenizeRequest) -> Tokenization:
        """Ids and pieces of every text.

        Raises:
            InvalidRequest: there are more than ``MAX_TOKENIZED``.
            ModelNotFound, BackendUnavailable, Draining. DeadlineExceeded, BackendFailed: of the graph that tokenizes.
        """
        deadline = self._deadline(None)

        async def answer(request: TokenizeRequest, served: ModelVersion) -> Tokenization:
            manifest, tokenizer = self._parts(served)
            graph = self._graph(served, manifest, deadline)
            return Tokenization(request.model, request.version, await tokenize(request.inputs, tokenizer, graph))

        with self._accepted():
            return await self._resolver.answer(request, deadline, answer)

    async def detokenize(self, request: DetokenizeRequest) -> Detokenization:
        """The text of every sequence of ids.

        Raises:
            ModelNotFound, BackendUnavailable, Draining. DeadlineExceeded, BackendFailed: of the graph that tokenizes.
        """
        deadline = self._deadline(None)

        async def answer(request: DetokenizeRequest, served: ModelVersion) -> Detokenization:
            manifest, tokenizer = self._parts(served)
            graph = self._graph(served, manifest, deadline)
            return Detokenization(request.model, request.version, await detokenize(request.ids, tokenizer, graph))

        with self._accepted():
            return await self._resolver.answer(request, deadline, answer)

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and finish the accepted; what is left after ``timeout_s`` gets Draining (then: False)."""
        if not self._draining:
            self._draining = True
            self._tell()
        if self._active:
            try:
                await asyncio.wait_for(self._idle.wait(), timeout_s)
            except asyncio.TimeoutError:
                self._resolver.stop()
                self._batcher.stop(Draining("the server stopped before this request was answered: send it again"))
                return False
        return True

    async def close(self) -> None:
        """Answer what is left with Draining and close the backend, which ends the batches that still run."""
        await self.drain(0.0)
        self._resolver.stop()
        await self._tokenizer_check.close()
        await self._backend.close()
        await self._batcher.close()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    @contextmanager
    def _accepted(self) -> Iterator[None]:
        """Count a request in, until it is answered."""
        if self._draining:
            raise Draining("the server is stopping: send the request to another one, or again later")
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
            if self._draining and not self._active:
                self._idle.set()

    @contextmanager
    def _timed(self, model: str) -> Iterator[None]:
        """Observe how long a call took, whatever becomes of it."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        error: BaseException | None = None
        try:
            yield
        except BaseException as caught:
            error = caught
            raise
        finally:
            latency = self._telemetry.e2e_request_latency_seconds.labels(model, outcome(error))
            latency.observe(loop.time() - started)

    def _deadline(self, timeout_s: float | None) -> float:
        if timeout_s is None:
            timeout_s = self._settings.default_timeout_ms / 1000
        return asyncio.get_running_loop().time() + min(timeout_s, self._settings.max_timeout_ms / 1000)

    async def _generate(
        self, request: GenerationRequest, served: ModelVersion, started: float, deadline: float, request_id: str
    ) -> Generation:
        manifest, tokenizer = self._parts(served)
        characters = sum(map(len, request.inputs)) + len(request.options.prefix)
        in_graph = graph_tokenizes(manifest, self._settings.tokenize)
        admissions = await off_loop_if_long(characters, lambda: admit(request, manifest, tokenizer, in_graph))
        results = await self._batcher.run([admission.row for admission in admissions], deadline, request_id)
        size = sum(result.row.ids.size for result in results) * (DETAILED if request.options.details else 1)
        outputs = await off_loop_if_long(
            size, lambda: assemble(admissions, [result.row for result in results], tokenizer)
        )
        total_s = asyncio.get_running_loop().time() - started
        self._observe(request.model, outputs, total_s)
        self._tokenizer_check.offer(served, request.inputs, admissions)
        timings = StageTimings(
            max(result.queue_s for result in results), max(result.inference_s for result in results), total_s
        )
        return Generation(request.model, request.version, outputs, timings)

    def _graph(self, served: ModelVersion, manifest: Manifest, deadline: float) -> Predict | None:
        """Runs a signature of ``served``, if its graph is to tokenize."""
        if not graph_tokenizes(manifest, self._settings.tokenize):
            return None

        def predict(signature: str, inputs: Arrays) -> Awaitable[Arrays]:
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
            return self._backend.predict(served.name, served.version, signature, inputs, left_s)

        return predict

    def _parts(self, version: ModelVersion) -> tuple[Manifest, Tokenizer]:
        """Manifest and tokenizer of a READY version; the tokenizer is made once."""
        if version.manifest is None or version.tokenizer is None:
            raise BackendUnavailable(
                f"version {version.version} of model {version.name!r} has no manifest or tokenizer"
            )
        tokenizer = self._tokenizers.get(version.tokenizer)
        if tokenizer is None:
            tokenizer = SentencePieceTokenizer(version.tokenizer)
            current = {each.tokenizer for each in self._backend.versions()}
            self._tokenizers = {model: each for model, each in self._tokenizers.items() if model in current}
            self._tokenizers[version.tokenizer] = tokenizer
        return version.manifest, tokenizer

    def _observe(self, model: str, outputs: Sequence[RowOutput], total_s: float) -> None:
        telemetry = self._telemetry
        telemetry.prompt_tokens.labels(model).inc(sum(output.input_tokens for output in outputs))
        telemetry.generation_tokens.labels(model).inc(
            sum(hypothesis.generated_tokens for output in outputs for hypothesis in output.hypotheses)
        )
        first_token = telemetry.time_to_first_token_seconds.labels(model)
        for output in outputs:
            first_token.observe(total_s)
            telemetry.request_success.labels(model, output.hypotheses[0].finish_reason.value).inc()
