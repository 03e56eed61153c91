"""Each kind of mistake in a manifest would be found."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.support.json_patch import apply
from tests.support.kustomize import Manifest, load, render
from tests.support.manifest_schemas import VERSIONS
from tests.support.manifests import problems
from tests.support.overlays import NAMESPACE, complete, overlay_with

(MISTAKES,) = load(Path(__file__).with_name("mistakes.yaml"))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    return render(complete(tmp_path_factory.mktemp("copy")))


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_found(everything: list[Manifest], mistake: dict[str, Any]) -> None:
    manifests = copy.deepcopy(everything)
    (there,) = [each for each in manifests if f"{each['kind']}/{each['metadata']['name']}" == mistake["in"]]
    apply(there, mistake["change"])

    assert mistake["told"] in "\n".join(problems(manifests, VERSIONS[-1]))


def test_components_without_a_namespace_are_found(tmp_path: Path) -> None:
    folder = complete(tmp_path)
    text = (folder / "kustomization.yaml").read_text()
    assert f"namespace: {NAMESPACE}\n" in text
    (folder / "kustomization.yaml").write_text(text.replace(f"namespace: {NAMESPACE}\n", ""))
    found = problems(render(folder), VERSIONS[-1])

    objects = ("PrometheusRule/malgil", "ServiceMonitor/malgil-gateway", "ServiceMonitor/malgil-tf-serving")
    assert sorted(found) == [f"{each}: it has no namespace" for each in ("HTTPRoute/malgil", *objects)]


def test_models_from_an_image_before_the_job_that_exports_them_are_found(tmp_path: Path) -> None:
    """The one takes the volume away that the other mounts; in the other order it takes the Job away, too."""
    found = problems(render(overlay_with(tmp_path, "production", "model-image", "publish")), VERSIONS[-1])

    assert found == ["Job/malgil-export: there is no PersistentVolumeClaim malgil-models"]
