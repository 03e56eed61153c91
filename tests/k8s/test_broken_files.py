"""Mistakes in files with which nothing is rendered."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.kustomize import KustomizeError, render
from tests.support.overlays import K8S


@pytest.mark.parametrize(
    ("file", "before", "after", "told"),
    [
        ("base/gateway/services.yaml", "  name: malgil-gateway\n", "  name: malgil-gateway\n  name: b\n", "twice"),
        ("base/kustomization.yaml", "namespace: malgil", "namespace: malgil\nvars: []", "vars: not known here"),
        ("overlays/local/kustomization.yaml", "kind: PersistentVolumeClaim, name", "kind: Volume, name", "there is no"),
        ("overlays/local/kustomization.yaml", "/spec/maxReplicas", "/spec/most", "there is no /spec/most"),
        ("overlays/local/kustomization.yaml", "[labels.yaml]", "[label.yaml]", "there is no label.yaml"),
    ],
)
def test_a_mistake_in_a_file_is_found(tmp_path: Path, file: str, before: str, after: str, told: str) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    text = (tmp_path / "k8s" / file).read_text()
    assert before in text
    (tmp_path / "k8s" / file).write_text(text.replace(before, after, 1))

    with pytest.raises(KustomizeError, match=told):
        render(tmp_path / "k8s" / "overlays" / "local")


def test_an_object_that_is_there_twice_is_found(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yaml, b.yaml]\n")
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump({"kind": "Service", "metadata": {"name": "one"}}))

    with pytest.raises(KustomizeError, match="twice"):
        render(tmp_path)
