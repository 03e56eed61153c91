"""Models behind ``malgil serve``, over REST."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from model_export.contract import OPTIONS, Limits
from model_export.evaluation.subject import EvaluationError, Options, Scored, Written

PATIENCE_S: Final = 300.0
"""How long a service may go on asking for other tries of one call before that is an error."""
_LONGEST_WAIT_S: Final = 30.0

Json = dict[str, Any]


@dataclass(frozen=True)
class Address:
    """A service, and which of its models and versions (a number or a label) is meant where that was said."""

    url: str
    model: str | None
    version: str | None

    @classmethod
    def parse(cls, text: str, model: str | None = None, version: str | None = None) -> Address:
        """``http://host:8000``, ``http://host:8000/MODEL`` or ``http://host:8000/MODEL/VERSION``.

        ``model`` and ``version`` are for what the address does not say.

        Raises:
            EvaluationError: it is something else.
        """
        wrong = EvaluationError(f"{text} is no address of a model: use http://host:8000/MODEL/VERSION or less of it")
        try:
            parts = urllib.parse.urlsplit(text)
            host, _ = parts.hostname, parts.port  # reading the port checks it
        except ValueError as error:
            raise wrong from error
        named = [urllib.parse.unquote(each) for each in parts.path.split("/") if each]
        if not host or len(named) > 2 or parts.query or parts.fragment:
            raise wrong
        named_model, named_version = [*named, None, None][:2]
        return cls(f"{parts.scheme}://{parts.netloc}", named_model or model, named_version or version)


class Service:
    """Calls to one server, each answered within ``timeout_s``, and made again where the server asks for it."""

    def __init__(self, url: str, timeout_s: float = 60.0, sleep: Callable[[float], None] = time.sleep) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._sleep = sleep

    def call(self, path: str, field: str, body: Json | None = None) -> Any:
        """POST ``body``, or GET; the answer's ``field``.

        Raises:
            EvaluationError: no answer, one that is none of Malgil's, or an error, which is told in the server's words.
        """
        waited = 0.0
        while True:
            try:
                answer = self._sent(path, body)
                break
            except urllib.error.HTTPError as error:
                with error:
                    wait = _retry_after(error)
                    if wait is None or waited + wait > PATIENCE_S:
                        raise EvaluationError(f"{self.url}{path}: {_message(error)}") from error
            self._sleep(wait)
            waited += wait
        try:
            return json.loads(answer)[field]
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(f"{self.url}{path} answered, but not as Malgil does") from error

    def _sent(self, path: str, body: Json | None) -> bytes:
        headers = {"content-type": "application/json", "x-request-timeout-ms": str(int(self._timeout_s * 1000))}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                answer: bytes = response.read()
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise EvaluationError(f"no answer from {self.url}: {reason}; does `malgil serve` run there?") from error
        return answer


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    """Seconds after which another try makes sense, as the answer says."""
    try:
        return min(max(float(error.headers["retry-after"]), 0.1), _LONGEST_WAIT_S)
    except (KeyError, TypeError, ValueError):
        return None


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return f"{json.load(error)['error']} (HTTP {error.code})"
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason}"


class RemoteSubject:
    """A ``Subject`` that is one version of a model of a service."""

    def __init__(self, service: Service, model: str, version: int, limits: Limits, batch_size: int = 32) -> None:
        self.title = f"{service.url}/{model}/{version}"
        self.limits = limits
        self._service = service
        self._model: Json = {"model": model, "version": version}
        self._batch_size = batch_size

    @classmethod
    def connect(cls, address: Address, timeout_s: float = 60.0, batch_size: int = 32) -> RemoteSubject:
        """The version that answers there now; it stays that one when another is rolled out meanwhile.

        Raises:
            EvaluationError: no server, no such model or version, or several models and none named.
        """
        service = Service(address.url, timeout_s)
        info = _model_info(service, address.model)
        version = _version_number(info, address.version)
        for each in info["versions"]:
            if each["version"] == version and each["state"] == "ready":
                return cls(service, info["name"], version, Limits(**each["limits"]), batch_size)
        raise EvaluationError(f"{address.url}: version {version} of {info['name']} is not ready")

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        ids = []
        for batch in _batches(texts, self._batch_size):
            outputs = self._service.call("/v1/tokenize", "outputs", {**self._model, "inputs": batch})
            ids += [output["ids"] for output in outputs]
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        (text,) = self._service.call("/v1/detokenize", "texts", {**self._model, "ids": list(ids)})
        return text

    def generate(self, texts: Sequence[str], options: Options) -> list[Written]:
        told = {name: value for name, value in options.items() if value != OPTIONS[name].neutral}
        if "do_sample" in told:
            told["seed"] = options["seed"]  # 0 is neutral, but without any the service draws one
        body = {**self._model, "inputs": list(texts), "parameters": told}
        outputs = self._service.call("/v1/generate", "outputs", body)
        return [Written(output["generated_text"], output["generated_tokens"]) for output in outputs]

    def score(self, texts: Sequence[str], targets: Sequence[str]) -> list[Scored]:
        body = {**self._model, "inputs": list(texts), "targets": list(targets), "parameters": {"details": True}}
        return [_scored(output) for output in self._service.call("/v1/score", "outputs", body)]


def _scored(output: Json) -> Scored:
    tokens = output["tokens"]
    return Scored(
        np.array([token["log_prob"] for token in tokens]),
        np.array([token["rank"] for token in tokens]),
        output["input_tokens"],
    )


def _batches(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    for first in range(0, len(texts), size):
        yield list(texts[first : first + size])


def _model_info(service: Service, name: str | None) -> Json:
    models: list[Json] = service.call("/v1/models", "models")
    names = ", ".join(each["name"] for each in models) or "no model"
    if name is None and len(models) != 1:
        raise EvaluationError(f"{service.url} serves {names}: name the model, as in {service.url}/MODEL")
    for each in models:
        if name in (None, each["name"]):
            return each
    raise EvaluationError(f"{service.url} does not serve {name!r}, but {names}")


def _version_number(info: Mapping[str, Any], version: str | None) -> int:
    """The number that a number, a label or nothing stands for."""
    if version is None:
        if info["version"] is None:
            raise EvaluationError(f"no version of {info['name']} is ready")
        return int(info["version"])
    if version.isdecimal():
        return int(version)
    for label in info["labels"]:
        if label["label"] == version and label["versions"]:
            return int(max(label["versions"], key=lambda each: each["weight"])["version"])
    raise EvaluationError(f"{info['name']} has no label {version!r} in force")
