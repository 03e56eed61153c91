"""Hot versions of real artifacts, in TensorFlow, under load."""

import asyncio
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET, Profile, ProfiledCall
from model_export.profiling import add_profile
from service.backend import VersionState
from service.backends.embedded import EmbeddedBackend
from service.engine import Engine
from service.generation import GenerationOptions, GenerationRequest
from service.settings import Settings
from service.telemetry import Telemetry
from tests.support.rows import at_most

CLIENTS = 12
READY, LOADING, REFUSED = VersionState.READY, VersionState.LOADING, VersionState.REFUSED


@pytest.fixture(scope="module")
def artifacts(artifact_root, tmp_path_factory):
    """The exported models with only as much to certify as loads quickly."""
    root = tmp_path_factory.mktemp("light")
    for name in ("tiny-rnn", "tiny-transformer"):
        shutil.copytree(artifact_root / name / "1", root / name)
        path = root / name / ASSETS_FOLDER / MANIFEST_ASSET
        manifest = json.loads(path.read_text())
        manifest["certificate"]["cases"] = manifest["certificate"]["cases"][:1]
        manifest["signatures"] = {
            signature: manifest["signatures"][signature] for signature in ("generate_ids", "describe")
        }
        path.write_text(json.dumps(manifest))
    return root


def _backend(root: Path) -> EmbeddedBackend:
    return EmbeddedBackend(root, slots=2, intra_op_threads=1, most_rows=at_most(4), version_poll_s=0.05)


def _add(artifact: Path, version: Path) -> None:
    """As an export does it: all of a version or nothing."""
    hidden = version.with_name(f".{version.name}")
    shutil.copytree(artifact, hidden)
    hidden.rename(version)


async def _until(backend: EmbeddedBackend, states: dict[int, VersionState]) -> None:
    while {each.version: each.state for each in backend.versions()} != states:
        await asyncio.sleep(0.01)


class _Client:
    """Asks the same again and again, for no version in particular."""

    def __init__(self, engine: Engine, number: int) -> None:
        self._engine = engine
        self._number = number
        self.answers: list[tuple[int, str]] = []
        self.slowest_s = 0.0

    async def ask(self, stop: asyncio.Event) -> None:
        options = GenerationOptions(max_new_tokens=12)
        while not stop.is_set():
            started = time.monotonic()
            version = self._engine.resolve("m", None).version
            request = GenerationRequest("m", version, ("the cat sat on the mat",), options)
            answer = await self._engine.generate(request, request_id=f"client {self._number}", timeout_s=60)
            self.answers.append((answer.version, answer.outputs[0].hypotheses[0].text))
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)
            await asyncio.sleep(0.03)


def test_versions_are_swapped_under_load_without_one_failed_or_slow_request(artifacts, tmp_path):
    async def scenario() -> None:
        _add(artifacts / "tiny-rnn", tmp_path / "m" / "1")
        backend = _backend(tmp_path)
        engine = Engine(backend, Settings(max_batch_rows=4), Telemetry())
        try:
            await engine.start()
            clients, stop = [_Client(engine, number) for number in range(CLIENTS)], asyncio.Event()
            asking = asyncio.gather(*(client.ask(stop) for client in clients))
            await asyncio.sleep(0.5)

            started = time.monotonic()
            _add(artifacts / "tiny-transformer", tmp_path / "m" / "2")
            await _until(backend, {2: LOADING, 1: READY})
            await _until(backend, {2: READY})
            load_s = time.monotonic() - started
            await asyncio.sleep(0.5)
            assert {client.answers[-1][0] for client in clients} == {2}

            _add(artifacts / "tiny-rnn", tmp_path / "m" / ".3")
            (tmp_path / "m" / ".3" / "saved_model.pb").write_bytes(b"not a graph")
            (tmp_path / "m" / ".3").rename(tmp_path / "m" / "3")
            await _until(backend, {3: REFUSED, 2: READY})
            await asyncio.sleep(0.2)
            assert {client.answers[-1][0] for client in clients} == {2}

            shutil.rmtree(tmp_path / "m" / "2")
            await _until(backend, {3: REFUSED, 2: READY, 1: LOADING})
            await _until(backend, {3: REFUSED, 1: READY})
            await asyncio.sleep(0.5)
            stop.set()
            await asking  # raises what a request failed with
        finally:
            await engine.close()

        texts = {answer for client in clients for answer in client.answers}
        assert sorted(version for version, _ in texts) == [1, 2]  # each gave one text ...
        assert len({text for _, text in texts}) == 2  # ... and not the same
        for client in clients:
            versions = [version for version, _ in client.answers]
            swaps = [after for before, after in zip([0, *versions], versions, strict=False) if before != after]
            assert swaps == [1, 2, 1]
        slowest_s = max(client.slowest_s for client in clients)
        assert slowest_s < load_s / 2, "a request waited for a version to be loaded"

    (tmp_path / "m").mkdir()
    asyncio.run(asyncio.wait_for(scenario(), 300))


def test_a_version_that_is_profiled_while_it_serves_is_swapped_for_itself(artifacts, tmp_path):
    measured = Profile("a CPU", 1, "2.21.0", (ProfiledCall(1, 8, 8, 1, 0.1), ProfiledCall(4, 8, 8, 1, 0.2)))

    async def scenario() -> None:
        _add(artifacts / "tiny-rnn", tmp_path / "m" / "1")
        backend = _backend(tmp_path)
        engine = Engine(backend, Settings(max_batch_rows=4), Telemetry())
        try:
            await engine.start()
            client, stop = _Client(engine, 1), asyncio.Event()
            asking = asyncio.create_task(client.ask(stop))
            await asyncio.to_thread(add_profile, tmp_path / "m" / "1", measured)
            while backend.versions()[0].manifest.profile != measured:
                assert [each.state for each in backend.versions()] == [READY]
                await asyncio.sleep(0.01)
            answered = len(client.answers)
            while len(client.answers) == answered:
                await asyncio.sleep(0.01)
            stop.set()
            await asking  # raises what a request failed with
        finally:
            await engine.close()
        assert len(set(client.answers)) == 1

    (tmp_path / "m").mkdir()
    asyncio.run(asyncio.wait_for(scenario(), 300))


def test_closing_ends_what_loads_and_leaves_no_thread(artifact_root, tmp_path, recwarn):
    shutil.copytree(artifact_root / "tiny-rnn" / "1", tmp_path / "m" / "1")

    async def scenario() -> float:
        backend = _backend(tmp_path)
        starting = asyncio.create_task(backend.start())
        while not (backend._loader and backend._loader._loading):
            await asyncio.sleep(0.01)
        assert [each.state for each in backend.versions()] == [LOADING]
        started = time.monotonic()
        starting.cancel()
        await backend.close()
        return time.monotonic() - started

    # What TensorFlow compiles at that moment is compiled to its end; all runs of the certificate take many times that.
    assert asyncio.run(asyncio.wait_for(scenario(), 300)) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("malgil-")]
    assert not recwarn.list
