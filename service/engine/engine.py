"""The engine itself.

A request is answered by its deadline, with its texts or with an error of ``service.errors``; cancelling the caller's
task takes its rows out of the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from model_export.contract import Manifest
from service.backend import Backend, ModelVersion, VersionState
from service.batching import Batcher, TimedResult
from service.engine.admission import admit
from service.engine.answers import assemble
from service.errors import BackendUnavailable, Draining, InvalidRequest, ModelNotFound
from service.generation import (
    DetokenizeRequest,
    Generation,
    GenerationRequest,
    RowOutput,
    StageTimings,
    Tokenization,
    TokenizeRequest,
)
from service.settings import Settings
from service.telemetry import Telemetry
from service.tokenization import SentencePieceTokenizer, Tokenizer

INLINE_CHARACTERS: Final = 10_000
"""Longer work of the tokenizer is given to a thread, so that other requests go on; a thread costs some 0.1 ms."""
MAX_TOKENIZED: Final = 100_000
"""Tokens that one call of ``tokenize`` answers: normalization makes up to 18 characters of one, so that a body within
its limits could ask for an answer of 100 MB."""

T = TypeVar("T")


class Engine:
    """Answers requests with the models of one backend; belongs to one event loop."""

    def __init__(self, backend: Backend, settings: Settings, telemetry: Telemetry) -> None:
        self._backend = backend
        self._settings = settings
        self._telemetry = telemetry
        self._batcher = Batcher(backend, settings, telemetry)
        self._tokenizers: dict[bytes, Tokenizer] = {}  # by model, for the versions there are
        self._active = 0
        self._draining = False
        self._idle = asyncio.Event()

    async def start(self) -> None:
        """Load the models; returns once every one is READY or REFUSED."""
        await self._backend.start()
        for version in self._backend.versions():
            if version.state is VersionState.READY:
                self._parts(version)

    @property
    def ready(self) -> bool:
        """Whether requests are answered now: every model has a READY version, there is one, and nothing drains."""
        versions = self._backend.versions()
        ready = {version.name for version in versions if version.state is VersionState.READY}
        return not self._draining and bool(ready) and ready == {version.name for version in versions}

    def models(self) -> Sequence[ModelVersion]:
        """Every version of every model, by name, newest first."""
        return self._backend.versions()

    def resolve(self, model: str | None, version: int | None) -> ModelVersion:
        """The READY version that answers a request for ``model`` (None: the only one) and ``version`` (None: newest).

        Raises:
            InvalidRequest: no model is named and several are served.
            ModelNotFound: there is no such model or version.
            BackendUnavailable: it is still loading, or was refused.
        """
        versions = self._backend.versions()
        names = list(dict.fromkeys(found.name for found in versions))
        if not names:
            raise BackendUnavailable("no model is served yet")
        if model is None:
            if len(names) > 1:
                raise InvalidRequest(f"'model' is missing: name one of {', '.join(names)}")
            model = names[0]
        if model not in names:
            raise ModelNotFound(f"there is no model {model!r}: name one of {', '.join(names)}")
        found = [each for each in versions if each.name == model and version in (None, each.version)]
        if not found:
            numbers = ", ".join(str(each.version) for each in versions if each.name == model)
            raise ModelNotFound(f"model {model!r} has no version {version}, but {numbers}")
        for each in found:
            if each.state is VersionState.READY:
                return each
        states = "; ".join(f"version {each.version} is {each.state.value}" for each in found)
        raise BackendUnavailable(f"model {model!r} is not ready: {states}")

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
        with self._accepted():
            loop = asyncio.get_running_loop()
            started = loop.time()
            if timeout_s is None:
                timeout_s = self._settings.default_timeout_ms / 1000
            deadline = started + min(timeout_s, self._settings.max_timeout_ms / 1000)
            manifest, tokenizer = self._parts(self.resolve(request.model, request.version))
            characters = sum(map(len, request.inputs)) + len(request.options.prefix)
            admissions = await off_loop_if_long(characters, lambda: admit(request, manifest, tokenizer))
            results = await self._batcher.run([admission.row for admission in admissions], deadline, request_id)
            outputs = assemble(admissions, [result.row for result in results], tokenizer)
            total_s = loop.time() - started
            self._observe(request.model, outputs, results, total_s)
            return Generation(
                request.model,
                request.version,
                outputs,
                StageTimings(
                    max(result.queue_s for result in results), max(result.inference_s for result in results), total_s
                ),
            )

    async def tokenize(self, request: TokenizeRequest) -> list[Tokenization]:
        """Ids and pieces of every text.

        Raises:
            InvalidRequest: there are more than ``MAX_TOKENIZED``.
            ModelNotFound, BackendUnavailable, Draining.
        """
        with self._accepted():
            _, tokenizer = self._parts(self.resolve(request.model, request.version))
            characters = sum(map(len, request.inputs))
            return await off_loop_if_long(characters, lambda: _tokenize(request.inputs, tokenizer))

    async def detokenize(self, request: DetokenizeRequest) -> list[str]:
        """The text of every sequence of ids. Raises ModelNotFound, BackendUnavailable, Draining."""
        with self._accepted():
            _, tokenizer = self._parts(self.resolve(request.model, request.version))
            return await off_loop_if_long(sum(map(len, request.ids)), lambda: tokenizer.decode(request.ids))

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and finish the accepted; what is left after ``timeout_s`` gets Draining (then: False)."""
        self._draining = True
        if self._active:
            try:
                await asyncio.wait_for(self._idle.wait(), timeout_s)
            except asyncio.TimeoutError:
                self._batcher.stop(Draining("the server stopped before this request was answered: send it again"))
                return False
        return True

    async def close(self) -> None:
        """Answer what is left with Draining and close the backend, which ends the batches that still run."""
        await self.drain(0.0)
        await self._backend.close()
        await self._batcher.close()

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

    def _observe(
        self, model: str, outputs: Sequence[RowOutput], results: Sequence[TimedResult], total_s: float
    ) -> None:
        telemetry = self._telemetry
        telemetry.e2e_request_latency_seconds.labels(model).observe(total_s)
        telemetry.prompt_tokens.labels(model).inc(sum(output.input_tokens for output in outputs))
        telemetry.generation_tokens.labels(model).inc(
            sum(hypothesis.generated_tokens for output in outputs for hypothesis in output.hypotheses)
        )
        queue_time = telemetry.request_queue_time_seconds.labels(model)
        first_token = telemetry.time_to_first_token_seconds.labels(model)
        for output, result in zip(outputs, results, strict=True):
            queue_time.observe(result.queue_s)
            first_token.observe(total_s)
            telemetry.request_success.labels(model, output.hypotheses[0].finish_reason.value).inc()


def _tokenize(texts: Sequence[str], tokenizer: Tokenizer) -> list[Tokenization]:
    """Ids and pieces of every text; InvalidRequest if there are more than ``MAX_TOKENIZED`` of them."""
    sequences: list[list[int]] = []
    tokens = 0
    for text in texts:
        (ids,) = tokenizer.encode([text])
        tokens += len(ids)
        if tokens <= MAX_TOKENIZED:  # beyond, they are counted only: all at once they would take much memory
            sequences.append(ids)
    if tokens > MAX_TOKENIZED:
        raise InvalidRequest(
            f"'inputs' have {tokens} tokens, and one call takes at most {MAX_TOKENIZED}: send fewer or shorter texts"
        )
    return [Tokenization(tuple(ids), tuple(tokenizer.pieces(ids))) for ids in sequences]


async def off_loop_if_long(size: int, work: Callable[[], T]) -> T:
    """``work`` on texts of ``size`` characters (or tokens), in a thread where it would hold up other requests."""
    return await asyncio.to_thread(work) if size > INLINE_CHARACTERS else work()
