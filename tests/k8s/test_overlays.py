"""Every overlay renders and is valid for three versions of Kubernetes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.kustomize import Manifest, render
from tests.support.manifest_schemas import VERSIONS
from tests.support.manifests import problems
from tests.support.overlays import FOLDERS, K8S, NAMES, OWN_MODEL, complete, overlay_with, told, told_with_own_models


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    return render(complete(tmp_path_factory.mktemp("copy")))


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_overlay_is_valid(folder: str, version: str) -> None:
    manifests = render(K8S / folder)

    assert len(manifests) >= 20
    assert problems(manifests, version) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_component_is_valid(everything: list[Manifest], version: str) -> None:
    assert {"ServiceMonitor", "PrometheusRule", "HTTPRoute"} <= {each["kind"] for each in everything}
    assert problems(everything, version) == []


@pytest.mark.parametrize("overlay", NAMES)
def test_models_may_come_from_an_image(overlay: str, tmp_path: Path) -> None:
    """Then nothing is exported into a volume, either."""
    manifests = render(overlay_with(tmp_path, overlay, "model-image"))
    (pod,) = [
        each["spec"]["template"]["spec"]
        for each in manifests
        if (each["kind"], each["metadata"]["name"]) == ("Deployment", "malgil-tf-serving")
    ]

    assert problems(manifests, VERSIONS[-1]) == []
    assert not {"PersistentVolumeClaim", "Job"} & {each["kind"] for each in manifests}
    assert "malgil-export" not in json.dumps(manifests)
    (copies,) = pod["initContainers"]
    assert copies["command"] == ["cp", "-R", "/models/.", f"{copies['volumeMounts'][0]['mountPath']}/"]
    assert copies["volumeMounts"][0]["name"] == pod["volumes"][0]["name"] == "models"
    assert pod["volumes"][0].keys() == {"name", "emptyDir"}


@pytest.mark.parametrize("above", ["production", "canary"])
def test_an_overlay_of_ones_own_changes_what_it_tells(above: str, tmp_path: Path) -> None:
    """Settings of all gateways, whose pods are renewed; the registry and not the release of images."""
    before, after = render(K8S / "overlays" / above), render(told(tmp_path, above))
    gateways = [each for each in settings(before) if each["metadata"]["name"].startswith("malgil-gateway")]
    of_gateways = [pod["containers"][0] for pod in pods(after, "malgil-gateway")]

    assert problems(after, VERSIONS[-1]) == []
    assert len(gateways) == len(of_gateways) == (2 if above == "canary" else 1)
    assert {each["envFrom"][0]["configMapRef"]["name"] for each in of_gateways} == {
        each["metadata"]["name"] for each in settings(after) if each["data"].get("MALGIL_QUEUE_ROWS") == "4096"
    }
    assert not names(settings(after)) & names(gateways)
    assert {each["image"] for each in of_gateways} == {
        f"registry.example.com/{pod['containers'][0]['image']}" for pod in pods(before, "malgil-gateway")
    }


@pytest.mark.parametrize("above", ["production", "canary"])
def test_models_may_be_ones_own_as_the_document_tells(above: str, tmp_path: Path) -> None:
    manifests = render(told_with_own_models(tmp_path, above))

    assert problems(manifests, VERSIONS[-1]) == []
    assert OWN_MODEL in json.dumps(manifests)
    assert "en-fr" not in json.dumps(manifests)
    data = {each["metadata"]["name"]: each["data"] for each in settings(manifests)}
    for pod in pods(manifests, "malgil-gateway"):
        given = data[pod["containers"][0]["envFrom"][0]["configMapRef"]["name"]]
        assert given["MALGIL_TF_SERVING_MODELS"] == OWN_MODEL
        assert Path(given["MALGIL_LABELS_FILE"]).name in data["malgil-labels"]


def test_a_canarys_release_is_its_own(tmp_path: Path) -> None:
    """A tag for each of the two places that the document names."""
    folder = told(tmp_path, "canary")
    for place, tag in {"production": "1.0.0", "canary/gateway": "2.0.0"}.items():
        written = folder.parent / place / "kustomization.yaml"
        assert "newTag: 0.1.0" in written.read_text("utf-8")
        written.write_text(written.read_text("utf-8").replace("newTag: 0.1.0", f"newTag: {tag}"), "utf-8")
    images = [pod["containers"][0]["image"] for pod in pods(render(folder), "malgil-gateway")]

    assert sorted(images) == [f"registry.example.com/malgil/gateway:{tag}" for tag in ("1.0.0", "2.0.0")]


def settings(manifests: list[Manifest]) -> list[Manifest]:
    return [each for each in manifests if each["kind"] == "ConfigMap"]


def names(manifests: list[Manifest]) -> set[str]:
    return {each["metadata"]["name"] for each in manifests}


def pods(manifests: list[Manifest], prefix: str) -> list[dict[str, Any]]:
    return [
        each["spec"]["template"]["spec"]
        for each in manifests
        if each["kind"] == "Deployment" and each["metadata"]["name"].startswith(prefix)
    ]
