"""Raw fields and limits -> requests, which exist only if their fields are valid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from service.backend import ModelVersion
from service.generation import DetokenizeRequest, GenerationRequest, TokenizeRequest
from service.settings import Settings

Resolve = Callable[[str | None, int | None], ModelVersion]
"""``Engine.resolve``."""


def parse_generate(fields: Any, resolve: Resolve, settings: Settings) -> GenerationRequest:
    """The body of ``POST /v1/generate``, JSON-decoded. Raises InvalidRequest, ModelNotFound, BackendUnavailable."""
    raise NotImplementedError


def parse_tokenize(fields: Any, resolve: Resolve, settings: Settings) -> TokenizeRequest:
    """``{"inputs": text or texts, "model": name, "version": number}``."""
    raise NotImplementedError


def parse_detokenize(fields: Any, resolve: Resolve, settings: Settings) -> DetokenizeRequest:
    """``{"ids": [...] or [[...], ...], "model": name, "version": number}``."""
    raise NotImplementedError


def parse_timeout_ms(text: str | None) -> float | None:
    """The header ``X-Request-Timeout-Ms`` in seconds; None if absent."""
    raise NotImplementedError
