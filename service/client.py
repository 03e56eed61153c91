"""``POST /v1/generate`` and ``/v1/score`` for programs on this side of the wire: over HTTP, or in this process.

Both ways may be asked from several threads at the same time.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal, TypeAlias
from uuid import uuid4

from service.bootstrap import running_engine
from service.engine import Engine
from service.errors import (
    ERROR_TABLE,
    BackendFailed,
    BackendUnavailable,
    Draining,
    InvalidRequest,
    Overloaded,
    ServiceError,
)
from service.settings import Settings
from service.transport import rest_convert
from service.validation import parse_generate, parse_score

Endpoint: TypeAlias = Literal["generate", "score"]
Body: TypeAlias = Mapping[str, Any]
Ask: TypeAlias = Callable[[Endpoint, Body], dict[str, Any]]
"""From a ``GenerateRequest`` to a ``GenerateResponse``, or of scoring, as ``service.transport.schemas`` has them."""

PATIENCE_S: Final = 300.0
"""How long a call is sent again to a server that is full or loading."""
_GRACE_S: Final = 1.0
"""The server tells by itself what took too long; this much later nobody listens any more."""
_ERRORS: Final = {row.error_type: error for error, row in ERROR_TABLE.items() if error is not Draining}


def over_http(url: str, timeout_s: float) -> Ask:
    """Calls to the server at ``url``, each answered within ``timeout_s``.

    They raise the ServiceError that the answer names; BackendUnavailable if there is none, and BackendFailed if it is
    none of Malgil's.
    """
    if not url.startswith(("http://", "https://")):
        raise InvalidRequest(f"{url!r} is no address of a server: it begins with http:// or https://")

    def ask(endpoint: Endpoint, body: Body) -> dict[str, Any]:
        headers = {"content-type": "application/json", "x-request-timeout-ms": str(max(1, int(timeout_s * 1000)))}
        try:
            address = f"{url.rstrip('/')}/v1/{endpoint}"
            request = urllib.request.Request(address, json.dumps(body, ensure_ascii=False).encode(), headers)
        except ValueError as error:
            raise InvalidRequest(f"{url!r} is no address of a server: {error}") from error
        answer = _answer(url, request, timeout_s)
        if not _is_answer(endpoint, answer, len(body["inputs"])):
            raise BackendFailed(f"{url} answered, but not as Malgil does")
        return answer  # type: ignore[no-any-return]

    return ask


def models_over_http(url: str, timeout_s: float, host: str | None = None) -> dict[str, Any]:
    """``GET /v1/models`` of the server at ``url``, which ``host`` is the name of where ``url`` has its IP address.

    Raises the errors of ``over_http``.
    """
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/v1/models", headers={"host": host} if host else {})
    except ValueError as error:
        raise InvalidRequest(f"{url!r} is no address of a server: {error}") from error
    answer = _answer(url, request, timeout_s)
    if not isinstance(answer, dict) or not isinstance(answer.get("models"), list):
        raise BackendFailed(f"{url} answered, but not as Malgil does")
    return answer


def _answer(url: str, request: urllib.request.Request, timeout_s: float) -> Any:
    """What the server at ``url`` answers, read as JSON."""
    try:
        with urllib.request.urlopen(request, timeout=timeout_s + _GRACE_S) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise _named_error(error) from error
    except (OSError, http.client.HTTPException) as error:  # urllib's own are OSErrors
        reason = getattr(error, "reason", error)
        raise BackendUnavailable(
            f"no answer from {url}: {reason}; does `malgil serve` run there?", retry_after_s=None
        ) from error
    except ValueError as error:
        raise BackendFailed(f"{url} answered, but not as Malgil does") from error


def _is_answer(endpoint: Endpoint, answer: Any, count: int) -> bool:
    """Whether ``answer`` has what callers read without a further look: an output for each input."""
    if not isinstance(answer, dict) or not {"model_name", "model_version", "outputs"} <= answer.keys():
        return False
    outputs = answer["outputs"]
    if not isinstance(outputs, list) or len(outputs) != count or not all(isinstance(each, dict) for each in outputs):
        return False
    if endpoint == "score":
        return all({"score", "perplexity"} <= output.keys() for output in outputs)
    hypotheses = [output.get("hypotheses") for output in outputs]
    return all(isinstance(each, list) and each for each in hypotheses) and all(
        isinstance(each, dict) and isinstance(each.get("text"), str) and "score" in each
        for of_one in hypotheses
        for each in of_one
    )


def _named_error(answer: urllib.error.HTTPError) -> ServiceError:
    """The error that an answer other than 200 stands for."""
    with answer:
        try:
            envelope = json.load(answer)
            message, error_type = envelope["error"], envelope["error_type"]
        except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
            return BackendFailed(f"{answer.url} answered {answer.code} {answer.reason}, but not as Malgil does")
    kind = _ERRORS.get(str(error_type), BackendFailed)
    after = str(answer.headers.get("retry-after", ""))
    retry_after_s = int(after) if after.isdecimal() and len(after) < 7 else None
    if kind is Overloaded:
        return Overloaded(str(message), retry_after_s=retry_after_s or 1)
    return kind(str(message), retry_after_s=retry_after_s)


def patient(ask: Ask, patience_s: float = PATIENCE_S, sleep: Callable[[float], object] = time.sleep) -> Ask:
    """``ask``, which asks again after ``Retry-After`` while that is offered and ``patience_s`` have not passed."""

    def ask_again(endpoint: Endpoint, body: Body) -> dict[str, Any]:
        waited_s = 0.0
        while True:
            try:
                return ask(endpoint, body)
            except (Overloaded, BackendUnavailable) as error:
                if error.retry_after_s is None:
                    raise
                pause_s = max(1.0, error.retry_after_s)
                if waited_s + pause_s > patience_s:
                    raise type(error)(
                        f"{error.message} (so it has been for {waited_s:.0f} s)", retry_after_s=error.retry_after_s
                    ) from error
            waited_s += pause_s
            sleep(pause_s)

    return ask_again


@contextmanager
def in_process(settings: Settings, timeout_s: float) -> Iterator[Ask]:
    """Calls to the models of ``settings``, loaded here and now. They raise ServiceError."""
    engine = _EngineThread(settings)
    try:
        engine.wait_until_loaded()
        yield lambda endpoint, body: engine.answer(endpoint, dict(body), timeout_s)
    finally:
        engine.close()


class _EngineThread(threading.Thread):
    """An engine with a loop of its own, which answers calls of other threads."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="engine")
        self._settings = settings
        self._loaded: Future[Engine] = Future()
        self._began: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()
        self._asking = threading.Lock()  # nothing is asked of a loop that has ended
        self._closed = False
        self.start()

    def run(self) -> None:
        try:
            asyncio.run(self._own_engine())
        except asyncio.CancelledError:
            pass  # closed
        except BaseException as error:
            if self._loaded.done():
                raise
            self._loaded.set_exception(error)

    async def _own_engine(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio.run makes one"
        self._began.set_result((asyncio.get_running_loop(), task))
        async with running_engine(self._settings) as engine:
            self._loaded.set_result(engine)
            await asyncio.Event().wait()  # until this task is cancelled

    def wait_until_loaded(self) -> None:
        self._loaded.result()

    def answer(self, endpoint: Endpoint, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        with self._asking:
            if self._closed:
                raise Draining("the models are closed", retry_after_s=None)
            loop, _ = self._began.result()
            answer = asyncio.run_coroutine_threadsafe(self._answer(endpoint, body, timeout_s), loop)
        return answer.result()

    async def _answer(self, endpoint: Endpoint, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        engine, settings, request_id = self._loaded.result(), self._settings, uuid4().hex
        if endpoint == "score":
            pairs = parse_score(body, engine.resolve, settings)
            scores = await engine.score(pairs, request_id=request_id, timeout_s=timeout_s)
            return rest_convert.scoring(scores, request_id)
        texts = parse_generate(body, engine.resolve, settings)
        answer = await engine.generate(texts, request_id=request_id, timeout_s=timeout_s)
        return rest_convert.generation(answer, request_id)

    def close(self) -> None:
        """Calls that are not answered yet get Draining."""
        with self._asking:
            self._closed = True
        loop, task = self._began.result()
        with suppress(RuntimeError):  # the loop has ended: the models could not be loaded
            loop.call_soon_threadsafe(task.cancel)
        self.join()
