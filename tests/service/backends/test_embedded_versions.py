"""How the embedded backend follows its folder, with models that are files of one word and load at once."""

import asyncio
import logging
import shutil
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.backend import VersionState, pad_ids
from service.backends import embedded
from service.backends.embedded import EmbeddedBackend
from service.backends.loading import LoadedVersion
from service.backends.scripted import scripted_manifest
from service.errors import BackendFailed, BackendUnavailable, ModelNotFound
from tests.support.rows import at_most

READY, LOADING, REFUSED = VersionState.READY, VersionState.LOADING, VersionState.REFUSED
TEXTS = {"texts": np.array([b"x"], object)}


class FakeModel:
    """Answers with its content, once it may."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.closed = threading.Event()

    def run(self, signature: str, inputs: Any, deadline: float | None, *, slot: int) -> dict[str, Any]:
        assert self.may_answer.wait(10)
        if self.closed.is_set():
            raise BackendUnavailable("the model was unloaded while it ran")
        ids, lengths = pad_ids([[1]])
        return {"ids": ids, "lengths": lengths, "pieces": np.array([[self.content]], object)}

    def close(self) -> None:
        self.closed.set()
        self.may_answer.set()


class FakeLoaders:
    """In place of the class ``Loader``: makes one, and knows what it loads."""

    def __init__(self) -> None:
        self.threads = 0
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.loaded: list[str] = []  # "model/version", in order
        self.models: dict[bytes, FakeModel] = {}
        self.now = self.most = 0

    def __call__(self, *, threads: int, **_: object) -> "FakeLoaders":
        self.threads, self.most = threads, 0
        return self

    async def load(self, folder: Path, expected: object) -> LoadedVersion:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            self.loaded.append(f"{folder.parent.name}/{folder.name}")
            content = (folder / "saved_model.pb").read_bytes()
            await asyncio.sleep(0)
            await self.may_load.wait()
            if content.startswith(b"bad"):
                raise BackendFailed(content.decode())
        finally:
            self.now -= 1
        model = self.models[content] = FakeModel(content)
        return LoadedVersion(model, scripted_manifest(content.decode()), content)

    def close(self) -> None:
        pass


class Stage:
    """A backend over a folder of such models."""

    def __init__(self, root: Path, loaders: FakeLoaders, **settings: Any) -> None:
        self.root, self.loaders = root, loaders
        settings = {"slots": 2, "intra_op_threads": 1, "most_rows": at_most(1), "version_poll_s": 0.01} | settings
        self.backend = EmbeddedBackend(root, **settings)

    def write(self, version: str, content: str) -> None:
        """All of a version or nothing, as ``malgil-export`` does it; other files in one that is there."""
        hidden = self.root / ".writing"
        hidden.mkdir()
        (hidden / "saved_model.pb").write_text(content)
        if (self.root / version).exists():
            (hidden / "saved_model.pb").replace(self.root / version / "saved_model.pb")
            hidden.rmdir()
        else:
            (self.root / version).parent.mkdir(exist_ok=True)
            hidden.rename(self.root / version)

    def remove(self, version: str) -> None:
        shutil.rmtree(self.root / version)

    def states(self, model: str = "m") -> dict[int, VersionState]:
        return {each.version: each.state for each in self.backend.versions() if each.name == model}

    async def until(self, **states: Mapping[int, VersionState]) -> None:
        """Wait until these are the versions of all models."""

        async def reached() -> None:
            while {name: self.states(name) for name in {each.name for each in self.backend.versions()}} != states:
                await asyncio.sleep(0.002)

        try:
            await asyncio.wait_for(reached(), 10)
        except asyncio.TimeoutError:
            pytest.fail(f"{self.backend.versions()} instead of {states}")

    async def looks(self, number: int = 3) -> None:
        """Wait until the folder has been looked at so many times more."""
        looked, look = 0, self.backend._model_folders.look

        def counted() -> Any:
            nonlocal looked
            looked += 1
            return look()

        self.backend._model_folders.look = counted
        while looked <= number:
            await asyncio.sleep(0.002)
        del self.backend._model_folders.look

    async def answer(self, version: int, model: str = "m") -> str:
        outputs = await self.backend.predict(model, version, "tokenize", TEXTS)
        return outputs["pieces"].item().decode()


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Runs a scenario on a started backend over the versions given, and closes it."""
    monkeypatch.setattr(embedded, "tensorflow", lambda: None)

    def play(scenario: Callable[[Stage], Awaitable[None]], versions: Mapping[str, str], **settings: Any) -> None:
        async def main() -> None:
            tasks, loaders = asyncio.all_tasks(), FakeLoaders()
            monkeypatch.setattr(embedded, "Loader", loaders)
            stage = Stage(tmp_path, loaders, **settings)
            for version, content in versions.items():
                stage.write(version, content)
            try:
                await stage.backend.start()
                await scenario(stage)
            finally:
                await asyncio.wait_for(stage.backend.close(), 5)
            assert all(model.closed.is_set() for model in loaders.models.values())
            assert asyncio.all_tasks() == tasks

        asyncio.run(asyncio.wait_for(main(), 30))

    return play


def test_a_new_version_is_loaded_beside_the_old_and_takes_its_place(play):
    async def scenario(stage):
        seen = []
        stage.backend.subscribe(lambda: seen.append(stage.states()))
        stage.loaders.may_load.clear()
        stage.write("m/2", "new")
        await stage.until(m={2: LOADING, 1: READY})
        await stage.looks()
        assert await stage.answer(1) == "old"
        with pytest.raises(ModelNotFound):
            await stage.answer(2)
        stage.loaders.may_load.set()
        await stage.until(m={2: READY})
        assert await stage.answer(2) == "new"
        with pytest.raises(ModelNotFound):
            await stage.answer(1)
        assert seen == [{2: LOADING, 1: READY}, {2: READY}]
        (version,) = stage.backend.versions()
        assert (version.manifest.model_name, version.tokenizer) == ("new", b"new")

    play(scenario, {"m/1": "old"})


def test_calls_on_a_retired_version_end_before_it_is_closed(play):
    async def scenario(stage):
        old = stage.loaders.models[b"old"]
        old.may_answer.clear()
        # Two of them run, one waits for a thread.
        calls = [asyncio.create_task(stage.answer(1)) for _ in range(3)]
        await asyncio.sleep(0)
        stage.write("m/2", "new")
        await stage.until(m={2: READY})
        await stage.looks()
        assert not old.closed.is_set()
        old.may_answer.set()
        assert await asyncio.gather(*calls) == ["old"] * 3
        assert await asyncio.to_thread(old.closed.wait, 5)

    play(scenario, {"m/1": "old"})


def test_a_call_that_is_cancelled_takes_its_slot_until_its_thread_is_free(play):
    async def scenario(stage):
        model = stage.loaders.models[b"old"]
        model.may_answer.clear()
        call = asyncio.create_task(stage.answer(1))
        await asyncio.sleep(0.02)
        call.cancel()
        await asyncio.sleep(0.02)
        assert not call.done()
        model.may_answer.set()
        with pytest.raises(asyncio.CancelledError):
            await call

    play(scenario, {"m/1": "old"})


def test_a_broken_version_stays_out_until_its_files_change(play, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("malgil"), "propagate", True)

    async def scenario(stage):
        stage.write("m/2", "bad luck")
        await stage.until(m={2: REFUSED, 1: READY})
        await stage.looks(5)
        assert stage.loaders.loaded == ["m/1", "m/2"]
        assert stage.backend.versions()[0].reason == "bad luck"
        assert await stage.answer(1) == "old"
        stage.write("m/2", "bad again")
        while stage.backend.versions()[0].reason != "bad again":
            await asyncio.sleep(0.002)
        assert stage.states() == {2: REFUSED, 1: READY}
        (stage.root / "m" / "2" / "saved_model.pb").write_text("good")  # in place
        await stage.until(m={2: READY})
        assert await stage.answer(2) == "good"
        assert stage.loaders.loaded == ["m/1", "m/2", "m/2", "m/2"]

    play(scenario, {"m/1": "old"})
    refused = [record.fields["reason"] for record in caplog.records if record.message == "model version refused"]
    assert refused == ["bad luck", "bad again"]


def test_a_version_that_is_being_copied_is_loaded_when_it_has_stayed_the_same(play):
    async def scenario(stage):
        look, copying, turn = stage.backend._model_folders.look, 0, threading.Lock()

        def look_while_copying():
            nonlocal copying
            with turn:
                if copying is not None:
                    copying += 1
                    stage.write("m/2", "bad: half a file" + "." * copying)
            return look()

        stage.backend._model_folders.look = look_while_copying
        while copying < 10:
            await asyncio.sleep(0.002)
        assert stage.states() == {2: LOADING, 1: READY}
        with turn:  # else two would write at the same time
            copying = None
        stage.write("m/2", "whole")
        await stage.until(m={2: READY})
        assert "bad" not in "".join(model.decode() for model in stage.loaders.models)

    play(scenario, {"m/1": "old"})


def test_other_files_under_the_same_number_take_its_place_if_they_are_good(play):
    async def scenario(stage):
        stage.write("m/1", "bad: other files")
        while stage.loaders.loaded != ["m/1", "m/1"]:
            await asyncio.sleep(0.002)
        await stage.looks()
        assert stage.states() == {1: READY}
        assert await stage.answer(1) == "old"
        stage.loaders.may_load.clear()
        stage.write("m/1", "new")
        while stage.loaders.loaded != ["m/1"] * 3:
            await asyncio.sleep(0.002)
        assert await stage.answer(1) == "old"
        stage.loaders.may_load.set()
        assert await asyncio.to_thread(stage.loaders.models[b"old"].closed.wait, 5)
        assert stage.states() == {1: READY}
        assert await stage.answer(1) == "new"
        assert stage.backend.versions()[0].tokenizer == b"new"

    play(scenario, {"m/1": "old"})


def test_a_removed_version_answers_until_the_one_before_is_loaded(play):
    async def scenario(stage):
        assert stage.loaders.loaded == ["m/3"]
        stage.loaders.may_load.clear()
        stage.remove("m/3")
        await stage.until(m={3: READY, 2: LOADING})
        assert await stage.answer(3) == "newest"
        stage.loaders.may_load.set()
        await stage.until(m={2: REFUSED, 1: READY})
        assert await stage.answer(1) == "oldest"
        with pytest.raises(ModelNotFound):
            await stage.answer(3)
        stage.remove("m")
        await stage.until()

    play(scenario, {"m/3": "newest", "m/2": "bad", "m/1": "oldest"})


def test_models_come_and_go(play):
    async def scenario(stage):
        stage.write("other/7", "there")
        await stage.until(m={1: READY}, other={7: READY})
        assert await stage.answer(7, "other") == "there"
        stage.remove("m")
        await stage.until(other={7: READY})
        with pytest.raises(ModelNotFound):
            await stage.answer(1)

    play(scenario, {"m/1": "here"})


def test_a_root_that_cannot_be_read_for_a_while_changes_nothing(play, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(logging.getLogger("malgil"), "propagate", True)

    async def scenario(stage):
        away = tmp_path.with_name(f"{tmp_path.name}-away")
        for _ in range(2):
            stage.root.rename(away)
            await asyncio.sleep(0.1)
            assert stage.states() == {1: READY}
            assert await stage.answer(1) == "old"
            away.rename(stage.root)
            await stage.looks()
        stage.write("m/2", "new")
        await stage.until(m={2: READY})

    play(scenario, {"m/1": "old"})
    assert [record.message for record in caplog.records].count("models folder cannot be read") == 2


def test_versions_that_are_to_be_kept_are_loaded_too_and_only_as_long(play):
    async def scenario(stage):
        stage.backend.keep({"m": frozenset({1, 9}), "other": frozenset({1})})
        await stage.until(m={3: READY, 1: READY})
        assert await stage.answer(1) == "first"
        stage.write("m/4", "fourth")
        await stage.until(m={4: READY, 1: READY})
        stage.backend.keep({"m": frozenset({3})})
        await stage.until(m={4: READY, 3: READY})
        stage.backend.keep({})
        assert stage.states() == {4: READY}

    play(scenario, {"m/3": "third", "m/2": "second", "m/1": "first"})


def test_the_newest_versions_are_served_as_many_as_asked(play):
    async def scenario(stage):
        assert stage.states() == {4: REFUSED, 3: READY, 2: READY}
        stage.write("m/5", "fifth")
        await stage.until(m={5: READY, 4: REFUSED, 3: READY})
        stage.remove("m/5")
        await stage.until(m={4: REFUSED, 3: READY, 2: READY})

    play(scenario, {"m/4": "bad", "m/3": "third", "m/2": "second", "m/1": "first"}, versions_served=2)


def test_several_load_at_once_at_the_start_and_one_at_a_time_later(play):
    async def scenario(stage):
        assert (stage.loaders.threads, len(stage.loaders.loaded)) == (1, 4)
        for name in "abcd":
            stage.write(f"{name}/2", f"new {name}")
        await stage.until(**{name: {2: READY} for name in "abcd"})
        assert stage.loaders.most == 1

    play(scenario, {f"{name}/1": name for name in "abcd"}, slots=3)


def test_what_is_to_be_kept_may_be_said_before_the_start(tmp_path, play):
    async def scenario(stage):
        pass

    kept = {"m": frozenset({1})}
    original = EmbeddedBackend.start

    async def start(self):
        self.keep(kept)
        await original(self)
        assert [each.version for each in self.versions()] == [2, 1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmbeddedBackend, "start", start)
        play(scenario, {"m/2": "second", "m/1": "first"})


def test_what_a_version_says_of_itself_is_what_it_said_when_it_was_certified(play):
    async def scenario(stage):
        stage.loaders.may_load.clear()
        stage.write("m/1", "new")
        outputs = await stage.backend.predict("m", 1, "describe", {"unused": np.array([b""], object)})
        assert outputs["manifest"].item().decode() == scripted_manifest("old").to_json()
        assert outputs["tokenizer"].item() == b"old"
        stage.loaders.may_load.set()

    play(scenario, {"m/1": "old"})


def test_what_nobody_wants_any_more_once_it_is_loaded_is_closed(play):
    async def scenario(stage):
        seen = []
        stage.backend.subscribe(lambda: seen.append(stage.states()))
        stage.loaders.may_load.clear()
        stage.write("m/2", "unwanted")
        await stage.until(m={2: LOADING, 1: READY})
        while "m/2" not in stage.loaders.loaded:
            await asyncio.sleep(0.002)
        stage.remove("m/2")
        await stage.until(m={1: READY})
        stage.loaders.may_load.set()
        while b"unwanted" not in stage.loaders.models:
            await asyncio.sleep(0.002)
        assert await asyncio.to_thread(stage.loaders.models[b"unwanted"].closed.wait, 5)
        assert seen == [{2: LOADING, 1: READY}, {1: READY}]

    play(scenario, {"m/1": "old"})


def test_a_large_pause_between_looks_does_not_hold_up_what_was_found(play, monkeypatch):
    monkeypatch.setattr(embedded, "SETTLING_S", 0.01)

    async def scenario(stage):
        stage.write("m/2", "new")
        await asyncio.sleep(0.8)
        assert stage.states() == {2: READY}

    play(scenario, {"m/1": "old"}, version_poll_s=0.5)
