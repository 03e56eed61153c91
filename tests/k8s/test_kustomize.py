"""The renderer of the tests makes what ``kubectl kustomize`` does."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.kustomize import Key, Manifest, key, render
from tests.support.overlays import FOLDERS, K8S, complete, overlay_with, told, told_with_own_models

KUBECTL = shutil.which("kubectl")


def of_kubectl(folder: Path) -> dict[Key, Manifest]:
    ran = subprocess.run(
        [str(KUBECTL), "kustomize", str(folder)], check=True, capture_output=True, text=True, timeout=60
    )
    assert "deprecated" not in ran.stderr
    return {key(each): each for each in yaml.safe_load_all(ran.stdout)}


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
@pytest.mark.parametrize("name", [*FOLDERS, "everything", "local, model-image", "production, model-image"])
def test_overlays_render_as_with_kubectl(name: str, tmp_path: Path) -> None:
    if name == "everything":
        folder = complete(tmp_path)
    elif ", " in name:
        folder = overlay_with(tmp_path, *name.split(", "))
    else:
        folder = K8S / name

    assert {key(each): each for each in render(folder)} == of_kubectl(folder)


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
@pytest.mark.parametrize("overlay", [told, told_with_own_models])
@pytest.mark.parametrize("above", ["production", "canary"])
def test_overlays_of_ones_own_render_as_with_kubectl(
    overlay: Callable[[Path, str], Path], above: str, tmp_path: Path
) -> None:
    folder = overlay(tmp_path, above)

    assert {key(each): each for each in render(folder)} == of_kubectl(folder)


def test_a_renamed_config_map_is_found_by_who_uses_it(tmp_path: Path) -> None:
    """Its hash follows its content; the name without one stays."""
    shutil.copytree(K8S, tmp_path / "k8s")
    before = {key(each) for each in render(tmp_path / "k8s" / "base")}
    settings = tmp_path / "k8s" / "base" / "gateway" / "kustomization.yaml"
    settings.write_text(settings.read_text().replace("MALGIL_DRAIN_TIMEOUT_S=30", "MALGIL_DRAIN_TIMEOUT_S=31"))
    (tmp_path / "k8s" / "base" / "labels.yaml").write_text("en-fr: {stable: 1}\n")
    after = {key(each) for each in render(tmp_path / "k8s" / "base")}

    ((kind, _, old),), ((_, _, new),) = before - after, after - before
    assert kind == "ConfigMap"
    assert old.rpartition("-")[0] == new.rpartition("-")[0] == "malgil-gateway"
    assert ("ConfigMap", "malgil", "malgil-labels") in before & after
