"""What pods need in order to run: files where programs look for them, ports where they listen, peers they may call."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.support.kustomize import Manifest, render
from tests.support.manifest_links import selected
from tests.support.manifest_schemas import containers
from tests.support.overlays import K8S, NAMES

SPREAD = {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}


@pytest.fixture(scope="module", params=NAMES)
def overlay(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(K8S / "overlays" / request.param)


def named(overlay: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [each for each in overlay if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def template(overlay: list[Manifest], name: str) -> dict[str, Any]:
    return named(overlay, "Deployment", name)["spec"]["template"]


def flags(overlay: list[Manifest]) -> dict[str, str]:
    (container,) = template(overlay, "malgil-tf-serving")["spec"]["containers"]
    return dict(each.split("=", 1) for each in container["args"])


def mounted(pod: dict[str, Any], file: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is mounted where the only container of a pod looks for a file: the mount, and its volume."""
    (container,) = pod["containers"]
    (mount,) = [each for each in container["volumeMounts"] if PurePosixPath(file).is_relative_to(each["mountPath"])]
    (volume,) = [each for each in pod["volumes"] if each["name"] == mount["name"]]
    return mount, volume


def test_a_container_that_cannot_write_to_its_root_has_a_folder_for_what_is_temporary(overlay: list[Manifest]) -> None:
    pods = [each["spec"]["template"]["spec"] for each in overlay if each["kind"] in ("Deployment", "Job")]
    assert len(pods) >= 2
    for pod in pods:
        mount, volume = mounted(pod, "/tmp/file")
        assert "emptyDir" in volume
        assert not mount.get("readOnly")


def test_tf_serving_finds_its_files(overlay: list[Manifest]) -> None:
    pod, said = template(overlay, "malgil-tf-serving")["spec"], flags(overlay)
    for flag in ("--model_config_file", "--monitoring_config_file"):
        _, volume = mounted(pod, said[flag])
        assert PurePosixPath(said[flag]).name in named(overlay, "ConfigMap", volume["configMap"]["name"])["data"]


def test_models_are_where_they_are_exported_to_and_only_exports_write_there(overlay: list[Manifest]) -> None:
    pod = template(overlay, "malgil-tf-serving")["spec"]
    (config,) = [each["data"]["models.config"] for each in overlay if "models.config" in each.get("data", {})]
    paths = dict(re.findall(r'name: "(.*?)"\s+base_path: "(.*?)"', config))
    assert paths
    for path in paths.values():
        mount, volume = mounted(pod, path)
        assert mount["readOnly"]
        assert volume["persistentVolumeClaim"] == {"claimName": "malgil-models", "readOnly": True}
    for job in (each for each in overlay if each["kind"] == "Job"):
        pod_of_job = job["spec"]["template"]["spec"]
        assert pod_of_job["containers"][0]["args"] == list(paths)
        for path in paths.values():
            mount, volume = mounted(pod_of_job, path)
            assert not mount.get("readOnly")
            assert volume["persistentVolumeClaim"] == {"claimName": "malgil-models"}
        # A volume belongs to root where no group is named for it.
        security = pod_of_job["securityContext"]
        assert security["fsGroup"] == pod["securityContext"]["fsGroup"] == security["runAsGroup"]


def test_tf_serving_listens_where_it_is_asked(overlay: list[Manifest]) -> None:
    (container,) = template(overlay, "malgil-tf-serving")["spec"]["containers"]
    ports, said = {each["name"]: each["containerPort"] for each in container["ports"]}, flags(overlay)

    assert ports == {"grpc": int(said["--port"]), "rest": int(said["--rest_api_port"])}
    assert container["livenessProbe"]["grpc"]["port"] == ports["grpc"]
    assert said["--enable_grpc_healthcheck_service"] == "true"  # else that probe fails


def test_a_gateway_may_call_tf_serving_and_dns(overlay: list[Manifest]) -> None:
    labels = template(overlay, "malgil-tf-serving")["metadata"]["labels"]
    policies = [
        each["spec"]
        for each in overlay
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"].startswith("malgil-gateway")
    ]
    assert policies
    for policy in policies:
        tf_serving, dns = policy["egress"]
        assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
        assert [selected(peer["podSelector"], labels) for peer in tf_serving["to"]] == [True]
        assert [port["port"] for port in tf_serving["ports"]] == [8500]
        assert dns["to"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "kube-system"}
        assert {(port["protocol"], port["port"]) for port in dns["ports"]} == {("UDP", 53), ("TCP", 53)}


def test_names_that_stand_for_every_pod(overlay: list[Manifest]) -> None:
    for name in ("malgil-tf-serving", "malgil-gateway-pods"):
        service = named(overlay, "Service", name)["spec"]
        assert service["clusterIP"] == "None"
        assert not service.get("publishNotReadyAddresses")  # what stops or still loads is called by nobody


def test_deployments_are_scaled_by_their_processors_and_spread(overlay: list[Manifest]) -> None:
    deployments = [each for each in overlay if each["kind"] == "Deployment"]
    assert len(deployments) >= 2
    for each in deployments:
        metrics = named(overlay, "HorizontalPodAutoscaler", each["metadata"]["name"])["spec"]["metrics"]
        assert "cpu" in [metric.get("resource", {}).get("name") for metric in metrics]
        spread = each["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert {constraint["topologyKey"] for constraint in spread} == SPREAD


def test_the_namespace_takes_nothing_but_what_is_restricted(overlay: list[Manifest]) -> None:
    (namespace,) = [each for each in overlay if each["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {each["metadata"]["namespace"] for each in overlay if containers(each)} == {namespace["metadata"]["name"]}
