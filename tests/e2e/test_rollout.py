"""New, broken and removed versions and moved labels, while sixteen clients go on asking; on both backends."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.load import Load, wait_until
from tests.support.model_server_process import QUICK, UNWARMED, model_server
from tests.support.server_process import server_process
from tests.support.tiny_models import CORPUS

MODEL = "tiny"
TEXTS = CORPUS[:8]
SETTINGS = {"MALGIL_VERSION_POLL_S": "0.2", "MALGIL_VERSIONS_SERVED": "2", "MALGIL_TF_SERVING_MODELS": MODEL}


@pytest.fixture
def root(artifact_root: Path, tmp_path: Path) -> Path:
    """Version 1 of a model."""
    shutil.copytree(artifact_root / "tiny-transformer" / "1", tmp_path / "models" / MODEL / "1")
    return tmp_path / "models"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.yaml"
    path.write_text(f"{MODEL}: {{stable: 1}}\n")
    return path


@pytest.fixture(params=["embedded", "tf-serving"])
def address(request: pytest.FixtureRequest, root: Path, labels: Path) -> Iterator[str]:
    settings = {**SETTINGS, "MALGIL_LABELS_FILE": str(labels), "MALGIL_BACKEND": request.param}
    if request.param == "embedded":
        with server_process("--models", str(root), **settings) as server:
            yield server.address()
        return
    with (
        model_server(root, *QUICK, UNWARMED, "--num_versions=3") as models,
        server_process("--tf-serving-addresses", models.address, **settings) as server,
    ):
        yield server.address()


def publish(artifact: Path, folder: Path) -> None:
    """As an export does: whole or not at all."""
    staging = folder.parent / ".staging"
    shutil.copytree(artifact, staging)
    staging.rename(folder)


def test_no_request_fails_and_each_is_answered_by_what_it_asked_for(
    address: str, root: Path, labels: Path, artifact_root: Path
) -> None:
    with httpx.Client(base_url=address, timeout=60.0) as client:

        def model() -> dict:
            return client.get(f"/v1/models/{MODEL}").json()

        def state(version: int) -> str | None:
            return next((each["state"] for each in model()["versions"] if each["version"] == version), None)

        def move_label(version: int) -> float:
            labels.write_text(f"{MODEL}: {{stable: {version}}}\n")
            return wait_until(
                lambda: (
                    client.post("/v1/generate", json={"inputs": "a", "version": "stable"}).json()["model_version"]
                    == version
                ),
                f"the label stands for version {version}",
            )

        def answers_of(version: int) -> dict[str, str]:
            outputs = client.post("/v1/generate", json={"inputs": list(TEXTS), "version": version}).json()["outputs"]
            return {text: output["generated_text"] for text, output in zip(TEXTS, outputs, strict=True)}

        wait_until(lambda: state(1) == "ready", "version 1 is ready")
        bodies = [
            {"inputs": text, **({"version": version} if version else {})}
            for text in TEXTS
            for version in (None, "stable", 1)
        ]
        expected = {1: answers_of(1)}
        with Load(address, bodies) as load:
            time.sleep(1.0)
            publish(artifact_root / "tiny-rnn" / "1", root / MODEL / "2")
            ready = wait_until(lambda: state(2) == "ready", "version 2 is ready")
            expected[2] = answers_of(2)
            moved = move_label(2)
            broken = root / MODEL / "3"
            shutil.copytree(root / MODEL / "1", broken.parent / ".broken")
            (broken.parent / ".broken" / "saved_model.pb").write_bytes(b"no graph")
            (broken.parent / ".broken").rename(broken)
            wait_until(lambda: state(3) == "refused", "version 3 is refused")
            time.sleep(0.5)
            moving_back = time.monotonic()
            moved_back = move_label(1)
            removing = time.monotonic()
            shutil.rmtree(root / MODEL / "2")
            removed = wait_until(lambda: state(2) is None, "version 2 is gone")
            time.sleep(1.0)

    assert expected[1] != expected[2]
    assert [(each.status, each.answer) for each in load.exchanges if each.status != 200] == []
    assert len(load.exchanges) > 200
    versions: dict[object, set[int]] = {None: set(), "stable": set(), 1: set()}
    for each in load.exchanges:
        asked, version = each.body.get("version"), each.answer["model_version"]
        versions[asked].add(version)
        text = each.body["inputs"]
        assert each.answer["outputs"][0]["generated_text"] == expected[version][text]
        if asked == 1:
            assert version == 1
        if asked is None and (ready < each.began and each.ended < removing):
            assert version == 2
        if asked is None and each.began > removed:
            assert version == 1
        if asked == "stable" and (moved < each.began and each.ended < moving_back):
            assert version == 2
        if asked == "stable" and (each.ended < ready or each.began > moved_back):
            assert version == 1
    assert versions == {None: {1, 2}, "stable": {1, 2}, 1: {1}}
