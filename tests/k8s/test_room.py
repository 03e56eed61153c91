"""What pods ask of nodes."""

from __future__ import annotations

import pytest

from tests.support.kustomize import Manifest, render
from tests.support.manifest_schemas import containers, quantity
from tests.support.overlays import K8S

MOST_OF_LOCAL = 1.0
"""Cores. Of two, the cluster's own pods ask for nearly one: 0.95 with kind."""


def requested(manifests: list[Manifest]) -> float:
    """Cores, with as many pods as autoscalers may start, and Jobs that still run."""
    most = {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"]["maxReplicas"]
        for each in manifests
        if each["kind"] == "HorizontalPodAutoscaler"
    }
    return sum(
        quantity(container["resources"]["requests"]["cpu"]) * most.get(each["metadata"]["name"], 1)
        for each in manifests
        for container in containers(each)
    )


def test_a_node_of_two_cores_has_room_for_all_of_local() -> None:
    manifests = render(K8S / "overlays" / "local")

    assert {"Deployment", "Job"} == {each["kind"] for each in manifests if containers(each)}
    assert 0 < requested(manifests) <= MOST_OF_LOCAL


@pytest.mark.parametrize("name", ["local", "production", "canary"])
def test_tf_serving_has_what_it_may_use_where_there_is_more_than_one_node(name: str) -> None:
    """Its autoscaler acts at three quarters of what it may use, whatever it requests."""
    found = {(each["kind"], each["metadata"]["name"]): each for each in render(K8S / "overlays" / name)}
    (container,) = containers(found["Deployment", "malgil-tf-serving"])
    cores = {each: quantity(container["resources"][each]["cpu"]) for each in ("requests", "limits")}
    (cpu,) = [
        each["resource"]["target"]["averageUtilization"]
        for each in found["HorizontalPodAutoscaler", "malgil-tf-serving"]["spec"]["metrics"]
        if "resource" in each
    ]

    assert name == "local" or cores["requests"] == cores["limits"]
    assert cores["requests"] * cpu / 100 == pytest.approx(0.75 * cores["limits"])
