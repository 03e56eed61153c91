"""REST: ``/v1/...``, the probes, the metrics and the documentation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from fastapi import FastAPI, Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive

from service.backend import VersionState
from service.engine import Engine
from service.engine.off_loop import off_loop_if_long
from service.errors import BackendUnavailable, ClientClosed, Draining, ModelNotFound
from service.settings import Settings
from service.telemetry import METRICS_CONTENT_TYPE, Telemetry
from service.transport import openapi, rest_convert
from service.transport.call import Answer, CallMiddleware, Endpoint, header, json_answer, read_body
from service.transport.docs_page import add_docs_page
from service.transport.json_body import dump_json, parse_json
from service.transport.shared import milliseconds
from service.validation import parse_detokenize, parse_generate, parse_score, parse_timeout_ms, parse_tokenize

Result = TypeVar("Result")

WATCHED_AFTER_S: Final = 0.02
"""What takes longer ends when its client hangs up; to watch the rest would cost more than it could save."""


def create_app(engine: Engine, settings: Settings, telemetry: Telemetry) -> ASGIApp:
    """The whole HTTP side of ``engine``, which its owner starts and closes.

    ``CallMiddleware`` finds the endpoints, and FastAPI what is none; none of its own layers is around either. They
    resolve dependencies and models that we do not use, for a third of what an echo costs. ``openapi`` describes it all.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=openapi.PATH, redirect_slashes=False)
    rest = _Rest(engine, settings, telemetry)
    endpoints = {
        (method, path): Endpoint(answer)
        for method, path, answer in (
            ("POST", "/v1/generate", rest.generate),
            ("POST", "/v1/score", rest.score),
            ("POST", "/v1/tokenize", rest.tokenize),
            ("POST", "/v1/detokenize", rest.detokenize),
            ("GET", "/v1/models", rest.models),
            ("GET", "/livez", rest.livez),
            ("GET", "/readyz", rest.readyz),
            ("GET", "/metrics", rest.metrics),
        )
    }
    routes = endpoints | {("GET", "/v1/models/{name}"): Endpoint(rest.model)}
    for (method, path), endpoint in routes.items():  # these too, for what is wrong with a method
        app.router.routes.append(Route(path, endpoint, methods=[method], include_in_schema=False))
    add_docs_page(app)
    app.openapi = openapi.document  # type: ignore[method-assign]  # FastAPI's documented way to replace it
    app.middleware_stack = app.router
    return CallMiddleware(app, endpoints, telemetry)


def create_metrics_app(telemetry: Telemetry) -> ASGIApp:
    """``GET /metrics`` alone, for ``Settings.metrics_port``."""

    async def metrics(request: Request) -> Answer:
        return _metrics(telemetry)

    async def elsewhere(request: Request) -> Answer:
        raise ModelNotFound("this port has GET /metrics and nothing else")

    return CallMiddleware(Endpoint(elsewhere), {("GET", "/metrics"): Endpoint(metrics)}, telemetry)


def _metrics(telemetry: Telemetry) -> Answer:
    return Answer(telemetry.render(), media_type=METRICS_CONTENT_TYPE.encode())


class _Rest:
    """The endpoints."""

    def __init__(self, engine: Engine, settings: Settings, telemetry: Telemetry) -> None:
        self._engine = engine
        self._settings = settings
        self._telemetry = telemetry

    async def generate(self, request: Request) -> Answer:
        return await self._run(request, parse_generate, self._engine.generate, rest_convert.generation)

    async def score(self, request: Request) -> Answer:
        return await self._run(request, parse_score, self._engine.score, rest_convert.scoring)

    async def tokenize(self, request: Request) -> Answer:
        parsed = parse_tokenize(await self._fields(request), self._engine.resolve, self._settings)
        return json_answer(rest_convert.tokenization(await self._engine.tokenize(parsed)))

    async def detokenize(self, request: Request) -> Answer:
        parsed = parse_detokenize(await self._fields(request), self._engine.resolve, self._settings)
        return json_answer(rest_convert.detokenization(await self._engine.detokenize(parsed)))

    async def models(self, request: Request) -> Answer:
        return json_answer(rest_convert.model_list(self._engine.status(), self._engine.labels_error))

    async def model(self, request: Request) -> Answer:
        for status in self._engine.status():
            if status.name == request.path_params["name"]:
                return json_answer(rest_convert.model(status))
        raise ModelNotFound("there is no such model: GET /v1/models lists those there are")

    async def livez(self, request: Request) -> Answer:
        return json_answer({"status": "ok"})

    async def readyz(self, request: Request) -> Answer:
        if self._engine.ready:
            return json_answer({"status": "ready"})
        if self._engine.draining:
            raise Draining("the server is stopping")
        waiting = [model for model in self._engine.status() if model.name in self._engine.waiting]
        names = ", ".join(model.name for model in waiting) or "any model"
        message = f"no version is ready of {names}: GET /v1/models says why"
        if any(all(each.state is VersionState.REFUSED for each in model.versions) for model in waiting):
            raise BackendUnavailable(message, retry_after_s=None)  # all versions of one were refused
        raise BackendUnavailable(message)

    async def metrics(self, request: Request) -> Answer:
        if self._settings.metrics_port is not None:
            raise ModelNotFound(f"metrics are on port {self._settings.metrics_port} (MALGIL_METRICS_PORT)")
        return _metrics(self._telemetry)

    async def _run(
        self,
        request: Request,
        parse: Callable[..., Any],
        run: Callable[..., Coroutine[Any, Any, Any]],
        convert: Callable[[Any, str], dict[str, Any]],
    ) -> Answer:
        """What a model answers, and where its time went."""
        timeout_s = parse_timeout_ms(header(request.scope, b"x-request-timeout-ms"))
        parsed = parse(await self._fields(request), self._engine.resolve, self._settings)
        request_id: str = request.scope["state"]["request_id"]
        answer = await _while_connected(request.receive, run(parsed, request_id=request_id, timeout_s=timeout_s))
        timings = (
            (b"x-queue-time", milliseconds(answer.timings.queue_s).encode()),
            (b"x-inference-time", milliseconds(answer.timings.inference_s).encode()),
        )
        body = await off_loop_if_long(answer.size, lambda: _json_by_output(convert(answer, request_id)))
        return Answer(body, headers=timings)

    async def _fields(self, request: Request) -> Any:
        return parse_json(await read_body(request, self._settings.max_body_bytes))


def _json_by_output(fields: dict[str, Any]) -> bytes:
    """An answer with its ``outputs`` one by one: while the encoder runs, no other thread does."""
    outputs = b",".join(map(dump_json, fields.pop("outputs")))
    return dump_json(fields)[:-1] + b',"outputs":[' + outputs + b"]}"


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is cancelled when the client hangs up."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    watching: asyncio.Task[None] | None = None
    hung_up = False

    async def watch() -> None:
        nonlocal hung_up
        while (await receive())["type"] != "http.disconnect":
            pass
        hung_up = True
        assert task is not None, "the server calls us in a task"
        task.cancel()

    def begin() -> None:
        nonlocal watching
        watching = loop.create_task(watch())

    timer = loop.call_later(WATCHED_AFTER_S, begin)
    try:
        return await work
    except asyncio.CancelledError:
        if hung_up:
            raise ClientClosed("the client hung up before its answer") from None
        raise
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()
