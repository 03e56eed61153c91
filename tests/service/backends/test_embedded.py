"""The embedded backend on a real artifact, good and broken in every way that should keep a version out."""

import asyncio
import gc
import json
import logging
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET, SIGNATURES, TOKENIZER_ASSET
from service import certificate
from service.backend import ModelVersion, VersionState, pad_ids
from service.backends.embedded import EmbeddedBackend, _Model, _Serving
from service.errors import BackendFailed, BackendUnavailable, DeadlineExceeded, ModelNotFound
from tests.support.rows import at_most

REASONS = {
    8: "no kernel for float32: its processor .* lacks imaginary_vnni; what `malgil-export export",
    7: "signature 'generate_ids'",
    6: "saved_model.pb is missing",
    5: "could not be loaded",
    4: "format version 99",
    3: "SHA-256",
    2: r"fails its certificate: generate_ids, case '.*': scores .* instead of ",
}
"""Why each broken version of the model below is refused."""


@pytest.fixture(scope="module")
def root(artifact_root, tmp_path_factory):
    """One model: version 1 as exported, newer ones broken; beside it what is no model."""
    good = artifact_root / "tiny-rnn" / "1"
    root = tmp_path_factory.mktemp("served")
    for version in (1, 2, 3, 4):
        shutil.copytree(good, root / "tiny" / str(version))
    assets = {version: root / "tiny" / str(version) / ASSETS_FOLDER for version in (2, 3, 4)}
    _edit_manifest(assets[2], lambda manifest: manifest["certificate"]["cases"][0].update(scores=[1.0]))
    (assets[3] / TOKENIZER_ASSET).write_bytes((assets[3] / TOKENIZER_ASSET).read_bytes() + b"\0")
    _edit_manifest(assets[4], lambda manifest: manifest.update(format_version=99))
    _edit_manifest(
        Path(shutil.copytree(good, root / "tiny" / "8")) / ASSETS_FOLDER,
        lambda manifest: manifest["cpu_features"].update(required=["imaginary_vnni"]),
    )
    (root / "tiny" / "5").mkdir()
    (root / "tiny" / "5" / "saved_model.pb").write_bytes(b"not a graph")
    (root / "tiny" / "6").mkdir()
    _save_another_model(root / "tiny" / "7")
    for stranger in ("tiny/.8.tmp", "tiny/08", "notes/today", ".cache/1x"):
        (root / stranger).mkdir(parents=True)
    return root


def _edit_manifest(assets: Path, change):
    path = assets / MANIFEST_ASSET
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def _save_another_model(folder: Path):
    """A SavedModel that is none of ours."""
    import tensorflow as tf

    module = tf.Module()
    double = tf.function(lambda x: {"y": 2 * x}).get_concrete_function(x=tf.TensorSpec([None], tf.float32))
    tf.saved_model.save(module, str(folder), signatures={"serving_default": double})


@pytest.fixture(scope="module")
def backend(root):
    backend = EmbeddedBackend(root, slots=2, intra_op_threads=1, most_rows=at_most(4))
    asyncio.run(backend.start())
    yield backend
    asyncio.run(backend.close())


def _inputs(backend, rows=1, **options):
    """``generate_ids`` inputs of the certificate's first case, ``rows`` times."""
    (ready,) = (each for each in backend.versions() if each.state is VersionState.READY)
    case = ready.manifest.certificate.cases[0]
    source_ids, source_lengths = pad_ids([case.source_ids] * rows)
    inputs = {"source_ids": source_ids, "source_lengths": source_lengths, **certificate.option_inputs([case] * rows)}
    return inputs | {name: np.full_like(inputs[name], value) for name, value in options.items()}


def _predict(backend, inputs, timeout_s=None):
    return asyncio.run(backend.predict("tiny", 1, "generate_ids", inputs, timeout_s))


def test_the_newest_good_version_is_ready_with_its_manifest_and_tokenizer(backend):
    ready = backend.versions()[-1]
    assert (ready.name, ready.version, ready.state, ready.reason) == ("tiny", 1, VersionState.READY, None)
    assert ready.manifest.model_name == "tiny-rnn"
    assert len(ready.manifest.certificate.cases) >= 16
    assert ready.tokenizer


def test_every_newer_version_is_refused_with_its_own_reason(backend):
    refused = {each.version: each for each in backend.versions()[:-1]}
    assert list(refused) == list(REASONS)
    for version, reason in REASONS.items():
        assert refused[version].state is VersionState.REFUSED
        assert re.search(reason, refused[version].reason)
        assert "\n" not in refused[version].reason


def test_a_call_gives_every_output_as_the_contract_has_it(backend):
    outputs = _predict(backend, _inputs(backend, rows=3, max_new_tokens=5))
    specs = SIGNATURES["generate_ids"].outputs
    assert outputs.keys() == specs.keys()
    sizes = {"B": 3, "K": 1}
    for name, spec in specs.items():
        assert outputs[name].dtype == spec.dtype
        assert all(
            sizes.setdefault(letter, size) == size for letter, size in zip(spec.shape, outputs[name].shape, strict=True)
        )
    assert (outputs["lengths"] <= 5).all()


def test_calls_of_several_threads_at_once_do_not_mix(backend):
    async def calls():
        one_row = [_inputs(backend, rows=1, max_new_tokens=tokens) for tokens in (1, 3, 5, 7)]
        return await asyncio.gather(*(backend.predict("tiny", 1, "generate_ids", inputs) for inputs in one_row * 5))

    lengths = [outputs["lengths"].item() for outputs in asyncio.run(calls())]
    alone = [_predict(backend, _inputs(backend, max_new_tokens=tokens))["lengths"].item() for tokens in (1, 3, 5, 7)]
    assert lengths == alone * 5


def test_what_is_not_ready_cannot_be_called(backend):
    for name, version in (("tiny", 2), ("tiny", 9), ("other", 1)):
        with pytest.raises(ModelNotFound):
            asyncio.run(backend.predict(name, version, "generate_ids", _inputs(backend)))


def test_inputs_are_checked_before_anything_runs(backend):
    inputs = _inputs(backend)
    with pytest.raises(BackendFailed, match="input source_ids of generate_ids: int64 instead of int32"):
        _predict(backend, inputs | {"source_ids": inputs["source_ids"].astype(np.int64)})
    with pytest.raises(BackendFailed, match="no signature 'train'"):
        asyncio.run(backend.predict("tiny", 1, "train", inputs))


def test_what_the_graph_refuses_is_a_failure_of_one_line(backend):
    inputs = _inputs(backend, rows=2)
    inputs["beam_size"] = np.array([1, 0], np.int32)
    with pytest.raises(BackendFailed, match="beam_size") as caught:
        _predict(backend, inputs)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def test_a_passed_deadline_cancels_the_run_and_the_model_goes_on(backend):
    inputs = _inputs(backend, rows=64, max_new_tokens=32, min_new_tokens=32)
    with pytest.raises(DeadlineExceeded):
        _predict(backend, inputs, timeout_s=0.002)
    with pytest.raises(DeadlineExceeded):
        _predict(backend, inputs, timeout_s=0.0)
    assert _predict(backend, _inputs(backend), timeout_s=60.0)["ids"].size


@pytest.mark.parametrize("cancellations", [1, 2])
def test_how_a_cancelled_run_ends_is_not_logged(backend, monkeypatch, caplog, cancellations):
    (serving,) = backend._models["tiny"].serving.values()
    began, may_fail = threading.Event(), threading.Event()

    def run(*_, slot):
        began.set()
        may_fail.wait(10.0)
        raise DeadlineExceeded("too late")

    monkeypatch.setattr(serving, "model", SimpleNamespace(run=run))

    async def scenario():
        call = asyncio.create_task(backend.predict("tiny", 1, "generate_ids", _inputs(backend)))
        await asyncio.to_thread(began.wait, 10.0)
        for _ in range(cancellations):
            call.cancel()
            await asyncio.sleep(0)
        may_fail.set()
        await asyncio.wait([call])
        assert call.cancelled()
        await asyncio.to_thread(lambda: None)
        await asyncio.sleep(0.1)  # until the run has told how it ended
        gc.collect()

    asyncio.run(scenario())
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.parametrize("folder", ["missing", "empty", "file"])
def test_a_folder_without_models_is_told_at_the_start(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    backend = EmbeddedBackend(tmp_path / folder, slots=1, intra_op_threads=1, most_rows=at_most(1))
    with pytest.raises(BackendUnavailable, match=str(tmp_path / folder)):
        asyncio.run(backend.start())
    asyncio.run(backend.close())


def test_refusals_are_logged_with_their_reason(root, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("malgil"), "propagate", True)
    shutil.copytree(root / "tiny" / "6", tmp_path / "broken" / "1")
    backend = EmbeddedBackend(tmp_path, slots=1, intra_op_threads=1, most_rows=at_most(1))
    asyncio.run(backend.start())
    asyncio.run(backend.close())
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("ERROR", "model version refused")
    assert record.fields == {"model_name": "broken", "model_version": 1, "reason": "saved_model.pb is missing"}


def _put(backend, model):
    """Let ``model`` answer as version 1 of ``put``."""
    version = ModelVersion("put", 1, VersionState.READY)
    backend._models["put"] = _Model(serving={1: _Serving(version, model, frozenset())})


TEXTS = {"texts": np.array([b"x"], object)}


def test_outputs_are_checked_before_they_go_anywhere(tmp_path):
    backend = EmbeddedBackend(tmp_path, slots=1, intra_op_threads=1, most_rows=at_most(1))
    ids, lengths = pad_ids([[1], [2]])
    outputs = {"ids": ids, "lengths": lengths, "pieces": np.array([[b"x"]] * 2, object)}
    _put(backend, SimpleNamespace(run=lambda *_, slot: outputs, close=lambda: None))
    with pytest.raises(BackendFailed, match=r"output ids of tokenize: shape \(2, 1\)"):
        asyncio.run(backend.predict("put", 1, "tokenize", TEXTS))
    asyncio.run(backend.close())


class _EndlessModel:
    """In place of a SavedModel: a run lasts until the session is closed."""

    def __init__(self):
        self.running, self.closed = threading.Event(), threading.Event()

    def run(self, signature, inputs, deadline, *, slot):
        self.running.set()
        assert self.closed.wait(20)
        raise BackendUnavailable("the model was unloaded while it ran")

    def close(self):
        self.closed.set()


def test_runs_that_go_on_together_have_slots_of_their_own(tmp_path):
    taken, both, may_end = [], threading.Barrier(3), threading.Event()

    def run(*_, slot):
        taken.append(slot)
        both.wait(20)
        may_end.wait(20)
        raise BackendFailed("whatever it was")

    async def scenario():
        backend = EmbeddedBackend(tmp_path, slots=2, intra_op_threads=1, most_rows=at_most(1))
        _put(backend, SimpleNamespace(run=run, close=lambda: None))
        for _ in range(2):  # a slot comes back from a run that fails
            may_end.clear()
            calls = [asyncio.create_task(backend.predict("put", 1, "tokenize", TEXTS)) for _ in range(2)]
            await asyncio.to_thread(both.wait, 20)
            may_end.set()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert [str(each) for each in ended] == ["whatever it was"] * 2
        await backend.close()

    asyncio.run(scenario())
    assert [sorted(taken[:2]), sorted(taken[2:])] == [[0, 1], [0, 1]]


def test_closing_does_not_wait_for_runs_to_finish(tmp_path):
    async def scenario():
        backend = EmbeddedBackend(tmp_path, slots=1, intra_op_threads=1, most_rows=at_most(1))
        model = _EndlessModel()
        _put(backend, model)
        running = asyncio.create_task(backend.predict("put", 1, "tokenize", TEXTS, 60.0))
        assert await asyncio.to_thread(model.running.wait, 5)
        await asyncio.wait_for(backend.close(), 5)
        with pytest.raises(BackendUnavailable, match="while it ran"):
            await running

    asyncio.run(scenario())


def test_a_closed_backend_refuses_calls(root):
    backend = EmbeddedBackend(root, slots=1, intra_op_threads=1, most_rows=at_most(1))
    asyncio.run(backend.close())
    with pytest.raises(ModelNotFound):
        asyncio.run(backend.predict("tiny", 1, "describe", {"unused": np.array([b""], object)}))
