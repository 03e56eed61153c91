"""Profiles on their way from a backend's manifests to what is admitted and how large batches are."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from model_export.contract import Profile, ProfiledCall
from service.backend import ModelVersion, VersionState
from service.backends.scripted import ScriptedBackend, scripted_manifest, tiny_tokenizer
from service.batching import Batcher
from service.errors import Overloaded
from service.settings import Settings
from service.telemetry import Telemetry
from tests.support.rows import make_row
from tests.support.virtual_loop import run_virtually

CALL_S = 1.0
SLOW = Profile(
    "a slow CPU",
    1,
    "2.21.0",
    tuple(
        ProfiledCall(rows, tokens, tokens, 1, CALL_S + 1e-4 * rows * tokens) for tokens in (4, 32) for rows in (1, 64)
    ),
)


def version_of(profile: Profile | None) -> ModelVersion:
    manifest = replace(scripted_manifest("echo"), profile=profile)
    return ModelVersion("echo", 1, VersionState.READY, None, manifest, tiny_tokenizer())


async def refused_behind_one_that_runs(batcher: Batcher) -> bool:
    """Whether a row that has less time than a call takes is refused at once, as one runs already."""
    loop = asyncio.get_running_loop()
    first = asyncio.create_task(batcher.run([make_row()], loop.time() + 60.0, "first"))
    await asyncio.sleep(0.01)
    asked = loop.time()
    try:
        await batcher.run([make_row()], loop.time() + 1.5 * CALL_S, "second")
    except Overloaded:
        assert loop.time() == asked
        return True
    finally:
        await first
    return False


@pytest.mark.parametrize(("profile", "refused"), [(None, False), (SLOW, True)])
def test_with_a_profile_the_first_requests_are_refused_where_they_would_be_late(
    profile: Profile | None, refused: bool
) -> None:
    async def scenario() -> None:
        backend = ScriptedBackend(slots=1, delay_s=0.01)  # the truth is no concern of a prediction
        batcher = Batcher(backend, Settings(backend="tf-serving"), Telemetry())
        await backend.start()
        backend.set_versions([version_of(profile)])
        assert await refused_behind_one_that_runs(batcher) == refused

    run_virtually(scenario())


def test_a_version_that_was_there_before_the_batcher_counts_too_and_another_in_its_place_after_it() -> None:
    async def scenario() -> None:
        backend = ScriptedBackend(slots=1, delay_s=0.01)
        backend.set_versions([version_of(SLOW)])
        batcher = Batcher(backend, Settings(backend="tf-serving"), Telemetry())
        assert await refused_behind_one_that_runs(batcher)
        backend.set_versions([version_of(None)])
        assert not await refused_behind_one_that_runs(batcher)

    run_virtually(scenario())


@pytest.mark.parametrize(("settings", "most"), [({}, 64), ({"max_batch_rows": 5}, 5)])
def test_batches_are_as_large_as_the_profile_says_or_the_settings(settings: dict[str, int], most: int) -> None:
    async def scenario() -> None:
        backend = ScriptedBackend(slots=1, delay_s=0.01)
        backend.set_versions([version_of(SLOW)])
        batcher = Batcher(backend, Settings(backend="tf-serving", **settings), telemetry := Telemetry())
        now = asyncio.get_running_loop().time()
        await batcher.run([make_row(max_new_tokens=4) for _ in range(64)], now + 3600.0, "")
        assert telemetry.registry.get_sample_value("malgil_batch_size_count", {"model_name": "echo"}) == -(-64 // most)

    run_virtually(scenario())
