"""REST: ``/v1/...``, the probes, the metrics and the documentation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive

from service.backend import VersionState
from service.engine import Engine
from service.errors import BackendUnavailable, ClientClosed, Draining, ModelNotFound, ServiceError
from service.settings import Settings
from service.telemetry import METRICS_CONTENT_TYPE, Telemetry
from service.transport import openapi, rest_convert
from service.transport.call import CallMiddleware, ErrorResponses, json_response, milliseconds, read_body
from service.transport.docs_page import add_docs_page
from service.transport.json_body import parse_json
from service.validation import parse_detokenize, parse_generate, parse_timeout_ms, parse_tokenize

Result = TypeVar("Result")


def create_app(engine: Engine, settings: Settings, telemetry: Telemetry) -> ASGIApp:
    """The whole HTTP side of ``engine``, which its owner starts and closes.

    The routes are plain ones, because FastAPI's own would resolve dependencies and models that we do not use, for some
    50 µs of every call; ``openapi`` describes them.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=openapi.PATH, redirect_slashes=False)
    rest = _Rest(engine, settings, telemetry)
    for method, path, endpoint in (
        ("POST", "/v1/generate", rest.generate),
        ("POST", "/v1/tokenize", rest.tokenize),
        ("POST", "/v1/detokenize", rest.detokenize),
        ("GET", "/v1/models", rest.models),
        ("GET", "/v1/models/{name}", rest.model),
        ("GET", "/livez", rest.livez),
        ("GET", "/readyz", rest.readyz),
        ("GET", "/metrics", rest.metrics),
    ):
        app.add_route(path, endpoint, methods=[method], include_in_schema=False)
    add_docs_page(app)
    app.openapi = openapi.document  # type: ignore[method-assign]  # FastAPI's documented way to replace it
    errors = ErrorResponses(telemetry)
    app.add_exception_handler(ServiceError, errors.service_error)
    app.add_exception_handler(HTTPException, errors.http_error)
    app.add_exception_handler(Exception, errors.unexpected)
    return CallMiddleware(app)


class _Rest:
    """The endpoints."""

    def __init__(self, engine: Engine, settings: Settings, telemetry: Telemetry) -> None:
        self._engine = engine
        self._settings = settings
        self._telemetry = telemetry

    async def generate(self, request: Request) -> Response:
        timeout_s = parse_timeout_ms(request.headers.get("x-request-timeout-ms"))
        parsed = parse_generate(await self._fields(request), self._engine.resolve, self._settings)
        request_id: str = request.state.request_id
        answer = await _while_connected(
            request.receive, self._engine.generate(parsed, request_id=request_id, timeout_s=timeout_s)
        )
        timings = {
            "x-queue-time": milliseconds(answer.timings.queue_s),
            "x-inference-time": milliseconds(answer.timings.inference_s),
        }
        return json_response(rest_convert.generation(answer, request_id), headers=timings)

    async def tokenize(self, request: Request) -> Response:
        parsed = parse_tokenize(await self._fields(request), self._engine.resolve, self._settings)
        outputs = await self._engine.tokenize(parsed)
        return json_response(rest_convert.tokenization(parsed.model, parsed.version, outputs))

    async def detokenize(self, request: Request) -> Response:
        parsed = parse_detokenize(await self._fields(request), self._engine.resolve, self._settings)
        texts = await self._engine.detokenize(parsed)
        return json_response(rest_convert.detokenization(parsed.model, parsed.version, texts))

    async def models(self, request: Request) -> Response:
        return json_response({"models": rest_convert.models(self._engine.models())})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        versions = [version for version in self._engine.models() if version.name == name]
        if not versions:
            raise ModelNotFound("there is no such model: GET /v1/models lists those there are")
        return json_response(rest_convert.models(versions)[0])

    async def livez(self, request: Request) -> Response:
        return json_response({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        if self._engine.ready:
            return json_response({"status": "ready"})
        versions = self._engine.models()
        waiting = {version.name for version in versions}
        waiting -= {version.name for version in versions if version.state is VersionState.READY}
        if versions and not waiting:
            raise Draining("the server is stopping")
        names = ", ".join(sorted(waiting)) or "any model"
        raise BackendUnavailable(f"no version is ready of {names}: GET /v1/models says why")

    async def metrics(self, request: Request) -> Response:
        return Response(self._telemetry.render(), media_type=METRICS_CONTENT_TYPE)

    async def _fields(self, request: Request) -> Any:
        return parse_json(await read_body(request, self._settings.max_body_bytes))


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is cancelled when the client hangs up."""
    task = asyncio.ensure_future(work)
    hang_up = asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait((task, hang_up), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientClosed("the client hung up before its answer")
        return task.result()
    finally:
        hang_up.cancel()
        task.cancel()


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
