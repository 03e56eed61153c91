"""``POST /v1/generate`` for programs on this side of the wire: over HTTP, or without a server in this process."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any
from uuid import uuid4

from service.bootstrap import running_engine
from service.errors import ERROR_TABLE, BackendFailed, BackendUnavailable, InvalidRequest, ServiceError
from service.settings import Settings
from service.transport import rest_convert
from service.validation import parse_generate

Generate = Callable[[Mapping[str, Any]], dict[str, Any]]
"""From a ``GenerateRequest`` to a ``GenerateResponse``, as ``service.transport.schemas`` has them."""


def over_http(url: str, timeout_s: float) -> Generate:
    """Calls to the server at ``url``, each answered within ``timeout_s``.

    They raise InvalidRequest for what the server finds wrong in a request, BackendUnavailable if there is no answer,
    and BackendFailed with the server's message otherwise.
    """
    if not url.startswith(("http://", "https://")):
        raise InvalidRequest(f"{url!r} is no address of a server: it begins with http:// or https://")

    def generate(body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"content-type": "application/json", "x-request-timeout-ms": str(int(timeout_s * 1000))}
        request = urllib.request.Request(f"{url.rstrip('/')}/v1/generate", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                answer: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            raise _named_error(error) from error
        except (urllib.error.URLError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            raise BackendUnavailable(f"no answer from {url}: {reason}; does `malgil serve` run there?") from error
        except ValueError as error:
            raise BackendFailed(f"{url} answered, but not as Malgil does") from error
        return answer

    return generate


def _named_error(answer: urllib.error.HTTPError) -> ServiceError:
    """The error that an answer other than 200 stands for."""
    with answer:
        try:
            envelope = json.load(answer)
            message, error_type = envelope["error"], envelope["error_type"]
        except (ValueError, KeyError, TypeError):
            return BackendFailed(f"{answer.url} answered {answer.code} {answer.reason}, but not as Malgil does")
    if error_type == ERROR_TABLE[InvalidRequest].error_type:
        return InvalidRequest(message)
    return BackendFailed(message)


@contextmanager
def in_process(settings: Settings, timeout_s: float) -> Iterator[Generate]:
    """Calls to the models of ``settings``, loaded here and now. They raise ServiceError."""
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()
    try:
        engine = loop.run_until_complete(stack.enter_async_context(running_engine(settings)))

        def generate(body: Mapping[str, Any]) -> dict[str, Any]:
            request_id = uuid4().hex
            request = parse_generate(dict(body), engine.resolve, settings)
            answer = loop.run_until_complete(engine.generate(request, request_id=request_id, timeout_s=timeout_s))
            return rest_convert.generation(answer, request_id)

        yield generate
    finally:
        loop.run_until_complete(stack.aclose())
        loop.close()
