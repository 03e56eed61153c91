"""An engine in this process, on the scripted backend, for as long as a test of it runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from service.backends.scripted import ScriptedBackend
from service.engine import Engine
from service.generation import Generation, GenerationOptions, GenerationRequest, ScoreRequest, Scoring
from service.settings import Settings
from service.telemetry import Telemetry


def run(
    test: Callable[[Engine], Awaitable[None]],
    backend: ScriptedBackend | None = None,
    chance: random.Random | None = None,
    **settings: Any,
) -> Telemetry:
    """Run ``test`` with a started engine in a loop of its own."""
    telemetry = Telemetry()

    async def main() -> None:
        engine = Engine(backend or ScriptedBackend(), Settings(**settings), telemetry, chance)
        await engine.start()
        try:
            await test(engine)
        finally:
            await engine.close()

    asyncio.run(asyncio.wait_for(main(), timeout=30))
    return telemetry


def generate(engine: Engine, *texts: str, timeout_s: float | None = None, **options: Any) -> asyncio.Task[Generation]:
    """An answer on its way."""
    request = GenerationRequest("echo", 1, texts, GenerationOptions(**options))
    return asyncio.create_task(engine.generate(request, request_id="test", timeout_s=timeout_s))


def score(
    engine: Engine, *pairs: tuple[str, str], timeout_s: float | None = None, **parameters: bool
) -> asyncio.Task[Scoring]:
    """Scores on their way, of texts with their targets."""
    texts, targets = zip(*pairs, strict=True)
    request = ScoreRequest("echo", 1, texts, targets, **parameters)
    return asyncio.create_task(engine.score(request, request_id="test", timeout_s=timeout_s))
