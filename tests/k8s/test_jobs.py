"""The Job by which docs/operations.md removes a version."""

from __future__ import annotations

import shlex

import pytest
import yaml

from tests.support.composed import SERVICES
from tests.support.kustomize import Manifest, StrictLoader, render
from tests.support.manifest_schemas import VERSIONS
from tests.support.manifests import problems
from tests.support.overlays import K8S, NAMES
from tests.support.pages import read_blocks, removal_command


@pytest.fixture(scope="module")
def job() -> Manifest:
    (written,) = [block for block in read_blocks("docs/operations.md", "yaml") if "kind: Job" in block]
    manifest: Manifest = yaml.load(written, StrictLoader)
    return manifest


@pytest.mark.parametrize("overlay", NAMES)
@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_valid_beside_every_overlay(job: Manifest, overlay: str, version: str) -> None:
    assert problems([*render(K8S / "overlays" / overlay), job], version) == []


def test_it_reaches_nobody_and_is_nobodys_pod(job: Manifest) -> None:
    """The policy that denies everything takes it, and no Service, budget or other policy does."""
    labels = job["spec"]["template"]["metadata"]["labels"]
    manifests = render(K8S / "overlays" / "canary")
    selectors = {
        f"{each['kind']}/{each['metadata']['name']}": selector
        for each in manifests
        for selector in [each.get("spec", {}).get("podSelector") or each.get("spec", {}).get("selector")]
        if selector is not None
    }
    taken = [
        name
        for name, selector in selectors.items()
        if (selector.get("matchLabels") or selector).items() <= labels.items()
    ]

    assert taken == ["NetworkPolicy/malgil-default-deny"]


def test_it_does_what_the_command_for_compose_does(job: Manifest) -> None:
    """Which tests/containers runs."""
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert container["command"] == ["sh", "-c", shlex.split(removal_command())[-1]]
    assert container["image"] == SERVICES["export"]["image"]
    assert [f"{each['name']}:{each['mountPath']}" for each in container["volumeMounts"]] == SERVICES["export"][
        "volumes"
    ]
    assert pod["securityContext"]["runAsUser"] == 65532
