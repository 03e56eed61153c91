"""Every overlay renders and is valid for three versions of Kubernetes."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest

from tests.support.kustomize import Manifest, render
from tests.support.manifest_schemas import VERSIONS
from tests.support.manifests import problems
from tests.support.overlays import FOLDERS, K8S, NAMES, complete, overlay_with

OWN = "mine"


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


def test_models_may_be_ones_own_as_the_document_tells(tmp_path: Path) -> None:
    page = (K8S.parent / "docs" / "deployment.md").read_text("utf-8")
    (told,) = re.findall(r"  ```yaml\n(  namespace: malgil\n.*?)  ```", page, re.DOTALL)
    folder = overlay_with(tmp_path, "production")
    (folder / "kustomization.yaml").write_text(f"resources: [../production]\n{textwrap.dedent(told)}")
    (folder / "models.config").write_text(f'model_config_list {{ config {{ name: "{OWN}" }} }}')
    (folder / "labels.yaml").write_text(f"{OWN}: {{stable: 1}}")
    manifests = render(folder)

    assert problems(manifests, VERSIONS[-1]) == []
    assert OWN in json.dumps(manifests)
    assert "en-fr" not in json.dumps(manifests)
