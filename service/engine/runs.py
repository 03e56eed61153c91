"""What a version of a model does with a request: admission, a run of its rows, answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence

from model_export.contract import Manifest
from service.backend import Arrays, Backend, ModelVersion
from service.batching import Batcher, TimedResult
from service.engine.admission import admit, admit_to_score
from service.engine.answers import assemble, assemble_scores
from service.engine.intake import Call
from service.engine.off_loop import off_loop_if_long
from service.engine.tokenizer_check import TokenizerCheck
from service.engine.tokenizing import Predict, detokenize, graph_tokenizes, tokenize
from service.errors import BackendUnavailable, ServiceError
from service.generation import (
    DETAILED,
    Detokenization,
    DetokenizeRequest,
    Generation,
    GenerationRequest,
    RowOutput,
    ScoreRequest,
    Scoring,
    StageTimings,
    Tokenization,
    TokenizeRequest,
)
from service.settings import Settings
from service.telemetry import Telemetry
from service.tokenization import SentencePieceTokenizer, Tokenizer


class Runs:
    """Runs requests on versions of one backend's models; belongs to one event loop."""

    def __init__(self, backend: Backend, settings: Settings, telemetry: Telemetry, chance: random.Random) -> None:
        self._backend = backend
        self._settings = settings
        self._telemetry = telemetry
        self._batcher = Batcher(backend, settings, telemetry)
        self._tokenizer_check = TokenizerCheck(backend, settings, telemetry, chance)
        self._tokenizers: dict[bytes, Tokenizer] = {}  # by model, for the versions there are

    async def generate(self, call: Call, seed: int, request: GenerationRequest, served: ModelVersion) -> Generation:
        """``seed``: of the first text, where it is sampled."""
        manifest, tokenizer = self.parts(served)
        in_graph = graph_tokenizes(manifest, self._settings.tokenize)
        characters = sum(map(len, request.inputs)) + len(request.options.prefix)
        admissions = await off_loop_if_long(characters, lambda: admit(request, manifest, tokenizer, in_graph, seed))
        results = await self._batcher.run([each.row for each in admissions], call.deadline, call.request_id)
        size = sum(sum(result.row.lengths) for result in results) * (DETAILED if request.options.details else 1)
        outputs = await off_loop_if_long(
            size, lambda: assemble(admissions, [result.row for result in results], tokenizer)
        )
        timings = _timings(call, results)
        self._observe(request.model, outputs, timings.total_s)
        self._tokenizer_check.offer(served, request.inputs, admissions)
        return Generation(request.model, request.version, outputs, timings)

    async def score(self, call: Call, request: ScoreRequest, served: ModelVersion) -> Scoring:
        """The probability of every target."""
        manifest, tokenizer = self.parts(served)
        in_graph = graph_tokenizes(manifest, self._settings.tokenize)
        characters = sum(map(len, (*request.inputs, *request.targets)))
        admissions = await off_loop_if_long(characters, lambda: admit_to_score(request, manifest, tokenizer, in_graph))
        results = await self._batcher.run([each.row for each in admissions], call.deadline, call.request_id)
        size = sum(
            len(each.row.target_ids) * (DETAILED if request.details else 1)
            + (len(each.row.target_ids) * len(each.row.source_ids) if request.align else 0)
            for each in admissions
        )
        outputs = await off_loop_if_long(
            size,
            lambda: assemble_scores(admissions, [result.row for result in results], tokenizer, details=request.details),
        )
        self._telemetry.prompt_tokens.labels(request.model).inc(sum(output.input_tokens for output in outputs))
        self._telemetry.scored_targets.labels(request.model).inc(len(outputs))
        self._telemetry.scored_tokens.labels(request.model).inc(sum(output.target_tokens for output in outputs))
        self._tokenizer_check.offer(served, request.inputs, admissions)
        return Scoring(request.model, request.version, outputs, _timings(call, results))

    async def tokenize(self, call: Call, request: TokenizeRequest, served: ModelVersion) -> Tokenization:
        """Ids and pieces of every text."""
        manifest, tokenizer = self.parts(served)
        graph = self._graph(served, manifest, call.deadline)
        return Tokenization(request.model, request.version, await tokenize(request.inputs, tokenizer, graph))

    async def detokenize(self, call: Call, request: DetokenizeRequest, served: ModelVersion) -> Detokenization:
        """The text of every sequence of ids."""
        manifest, tokenizer = self.parts(served)
        graph = self._graph(served, manifest, call.deadline)
        return Detokenization(request.model, request.version, await detokenize(request.ids, tokenizer, graph))

    def parts(self, version: ModelVersion) -> tuple[Manifest, Tokenizer]:
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

    def stop(self, error: ServiceError) -> None:
        """Answer what waits or runs with ``error``, and from now on everything."""
        self._batcher.stop(error)

    async def close(self) -> None:
        """Close the backend, which ends the batches that still run; ``stop`` comes before."""
        await self._tokenizer_check.close()
        await self._backend.close()
        await self._batcher.close()

    def _graph(self, served: ModelVersion, manifest: Manifest, deadline: float) -> Predict | None:
        """Runs a signature of ``served``, if its graph is to tokenize."""
        if not graph_tokenizes(manifest, self._settings.tokenize):
            return None

        def predict(signature: str, inputs: Arrays) -> Awaitable[Arrays]:
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
            return self._backend.predict(served.name, served.version, signature, inputs, left_s)

        return predict

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


def _timings(call: Call, results: Sequence[TimedResult]) -> StageTimings:
    return StageTimings(
        max(result.queue_s for result in results),
        max(result.inference_s for result in results),
        asyncio.get_running_loop().time() - call.started,
    )
