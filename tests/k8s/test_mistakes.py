"""Each kind of mistake in a manifest would be found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.kustomize import Manifest, render
from tests.support.manifest_schemas import VERSIONS
from tests.support.manifests import problems
from tests.support.overlays import NAMESPACE, complete, overlay_with


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    return render(complete(tmp_path_factory.mktemp("copy")))


def pod(manifest: Manifest) -> dict[str, Any]:
    return manifest["spec"]["template"]["spec"]


def container(manifest: Manifest) -> dict[str, Any]:
    return pod(manifest)["containers"][0]


def unknown_field(found: dict[str, Manifest]) -> None:
    container(found["Deployment/malgil-gateway"])["imagePullPolice"] = "Always"


def unknown_field_of_a_custom_resource(found: dict[str, Manifest]) -> None:
    found["ServiceMonitor/malgil-gateway"]["spec"]["endpoints"][0]["intervall"] = "15s"


def removed_api(found: dict[str, Manifest]) -> None:
    found["PodDisruptionBudget/malgil-gateway"]["apiVersion"] = "policy/v1beta1"


def wrong_type(found: dict[str, Manifest]) -> None:
    found["HorizontalPodAutoscaler/malgil-gateway"]["spec"]["minReplicas"] = "2"


def selector_of_a_deployment(found: dict[str, Manifest]) -> None:
    found["Deployment/malgil-gateway"]["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] = "gate"


def selector_of_a_service(found: dict[str, Manifest]) -> None:
    found["Service/malgil-tf-serving"]["spec"]["selector"]["app.kubernetes.io/component"] = "serving"


def selector_of_a_budget(found: dict[str, Manifest]) -> None:
    del found["PodDisruptionBudget/malgil-gateway"]["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]


def selector_of_a_policy(found: dict[str, Manifest]) -> None:
    found["NetworkPolicy/malgil-tf-serving"]["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] = "tf"


def selector_of_a_monitor(found: dict[str, Manifest]) -> None:
    found["ServiceMonitor/malgil-gateway"]["spec"]["selector"]["matchLabels"] = {"malgil/scrape": "gateways"}


def spread_of_others(found: dict[str, Manifest]) -> None:
    pod(found["Deployment/malgil-gateway"])["topologySpreadConstraints"][0]["labelSelector"] = {}


def port_of_a_service(found: dict[str, Manifest]) -> None:
    found["Service/malgil-gateway"]["spec"]["ports"][0]["targetPort"] = "web"


def port_of_a_probe(found: dict[str, Manifest]) -> None:
    container(found["Deployment/malgil-tf-serving"])["livenessProbe"]["grpc"]["port"] = 8502


def port_of_a_policy(found: dict[str, Manifest]) -> None:
    found["NetworkPolicy/malgil-tf-serving"]["spec"]["ingress"][0]["ports"][0]["port"] = "http"


def port_of_a_route(found: dict[str, Manifest]) -> None:
    found["HTTPRoute/malgil"]["spec"]["rules"][0]["backendRefs"][0]["port"] = 80


def port_out_of_range(found: dict[str, Manifest]) -> None:
    found["Service/malgil-gateway"]["spec"]["ports"][0]["port"] = 80_000


def quantity(found: dict[str, Manifest]) -> None:
    container(found["Deployment/malgil-gateway"])["resources"]["limits"]["memory"] = "512MB"


def quantity_below_what_is_requested(found: dict[str, Manifest]) -> None:
    container(found["Deployment/malgil-tf-serving"])["resources"]["limits"]["memory"] = "512Mi"


def no_limit(found: dict[str, Manifest]) -> None:
    del container(found["Deployment/malgil-tf-serving"])["resources"]["limits"]["memory"]


def missing_config_map(found: dict[str, Manifest]) -> None:
    pod(found["Deployment/malgil-gateway"])["volumes"][0]["configMap"]["name"] = "labels"


def missing_volume_claim(found: dict[str, Manifest]) -> None:
    pod(found["Deployment/malgil-tf-serving"])["volumes"][0]["persistentVolumeClaim"]["claimName"] = "models"


def missing_volume(found: dict[str, Manifest]) -> None:
    container(found["Deployment/malgil-gateway"])["volumeMounts"][0]["name"] = "label"


def missing_service_account(found: dict[str, Manifest]) -> None:
    pod(found["Deployment/malgil-gateway"])["serviceAccountName"] = "gateway"


def missing_target(found: dict[str, Manifest]) -> None:
    found["HorizontalPodAutoscaler/malgil-gateway"]["spec"]["scaleTargetRef"]["name"] = "gateway"


def missing_metric(found: dict[str, Manifest]) -> None:
    metric = found["HorizontalPodAutoscaler/malgil-tf-serving"]["spec"]["metrics"][0]
    metric["object"]["describedObject"]["name"] = "gateway"


def privileged(found: dict[str, Manifest]) -> None:
    container(found["Deployment/malgil-gateway"])["securityContext"]["privileged"] = True


def escalation(found: dict[str, Manifest]) -> None:
    del container(found["Deployment/malgil-gateway"])["securityContext"]["allowPrivilegeEscalation"]


def capabilities(found: dict[str, Manifest]) -> None:
    container(found["Deployment/malgil-tf-serving"])["securityContext"]["capabilities"]["add"] = ["SYS_ADMIN"]


def root(found: dict[str, Manifest]) -> None:
    pod(found["Deployment/malgil-tf-serving"])["securityContext"]["runAsNonRoot"] = False


def no_seccomp(found: dict[str, Manifest]) -> None:
    del pod(found["Deployment/malgil-tf-serving"])["securityContext"]["seccompProfile"]


def host_path(found: dict[str, Manifest]) -> None:
    pod(found["Deployment/malgil-tf-serving"])["volumes"][0] = {"name": "models", "hostPath": {"path": "/models"}}


def host_network(found: dict[str, Manifest]) -> None:
    pod(found["Deployment/malgil-gateway"])["hostNetwork"] = True


def writable_root(found: dict[str, Manifest]) -> None:
    container(found["Deployment/malgil-gateway"])["securityContext"]["readOnlyRootFilesystem"] = False


def token(found: dict[str, Manifest]) -> None:
    pod(found["Deployment/malgil-gateway"])["automountServiceAccountToken"] = True


def latest_image(found: dict[str, Manifest]) -> None:
    container(found["Deployment/malgil-gateway"])["image"] = "malgil/gateway:latest"


def labels_by_sub_path(found: dict[str, Manifest]) -> None:
    container(found["Deployment/malgil-gateway"])["volumeMounts"][0]["subPath"] = "labels.yaml"


def anybody_calls_tf_serving(found: dict[str, Manifest]) -> None:
    found["NetworkPolicy/malgil-tf-serving"]["spec"]["ingress"][0]["from"] = [{"podSelector": {}}]


def anybody_reads_metrics(found: dict[str, Manifest]) -> None:
    for name in ("malgil-gateway", "malgil-gateway-canary", "malgil-tf-serving"):
        found[f"NetworkPolicy/{name}"]["spec"]["ingress"][1]["from"] = [{"namespaceSelector": {}}]


def another_namespace(found: dict[str, Manifest]) -> None:
    found["ServiceMonitor/malgil-gateway"]["metadata"]["namespace"] = "monitoring"


MISTAKES: list[tuple[Callable[[dict[str, Manifest]], None], str]] = [
    (unknown_field, "Deployment/malgil-gateway: /spec/template/spec/containers/0: Additional properties"),
    (unknown_field_of_a_custom_resource, "ServiceMonitor/malgil-gateway: /spec/endpoints/0: Additional properties"),
    (removed_api, "has no policy/v1beta1 PodDisruptionBudget"),
    (wrong_type, "HorizontalPodAutoscaler/malgil-gateway: /spec/minReplicas: '2' is not of type"),
    (selector_of_a_deployment, "its selector does not take its own pods"),
    (selector_of_a_service, "Service/malgil-tf-serving: its selector takes no pods"),
    (selector_of_a_budget, "PodDisruptionBudget/malgil-gateway: its selector must take the pods of one deployment"),
    (selector_of_a_policy, "NetworkPolicy/malgil-tf-serving: its selector takes no pods"),
    (selector_of_a_monitor, "ServiceMonitor/malgil-gateway: its selector takes no services"),
    (spread_of_others, "its pods are not those that are spread over kubernetes.io/hostname"),
    (port_of_a_service, "Service/malgil-gateway: pods of malgil-gateway have no port web"),
    (port_of_a_probe, "tf-serving: livenessProbe: there is no port 8502"),
    (port_of_a_policy, "NetworkPolicy/malgil-tf-serving: the pods that it is about have no port http"),
    (port_of_a_route, "HTTPRoute/malgil: there is no Service malgil-gateway-canary with port 80"),
    (port_out_of_range, "80000 is no port"),
    (quantity, "'512MB' is no quantity"),
    (quantity_below_what_is_requested, "memory: 4Gi is requested, and 512Mi the limit"),
    (no_limit, "requests and limits must say memory"),
    (missing_config_map, "there is no ConfigMap labels"),
    (missing_volume_claim, "there is no PersistentVolumeClaim models"),
    (missing_volume, "gateway: there is no volume label"),
    (missing_service_account, "there is no ServiceAccount gateway"),
    (missing_target, "there is no Deployment gateway"),
    (missing_metric, "there is no Namespace gateway"),
    (privileged, "restricted: gateway: privileged"),
    (escalation, "restricted: gateway: allowPrivilegeEscalation must be false"),
    (capabilities, "restricted: tf-serving: capabilities"),
    (root, "restricted: pod: runAsNonRoot is false"),
    (no_seccomp, "restricted: tf-serving: seccompProfile must be set"),
    (host_path, "restricted: volume models: hostPath"),
    (host_network, "restricted: hostNetwork"),
    (writable_root, "gateway: readOnlyRootFilesystem must be true"),
    (token, "its pods get a token"),
    (latest_image, "image malgil/gateway:latest has no version"),
    (labels_by_sub_path, "never brought up to date"),
    (anybody_calls_tf_serving, "NetworkPolicy/malgil-tf-serving: those that may call malgil-tf-serving are not"),
    (anybody_reads_metrics, "NetworkPolicy/malgil-gateway-canary: others than Prometheus read the metrics of"),
    (another_namespace, "ServiceMonitor/malgil-gateway: its namespace is monitoring, that of the others malgil"),
]


@pytest.mark.parametrize(("mistake", "told"), MISTAKES, ids=[mistake.__name__ for mistake, _ in MISTAKES])
def test_a_mistake_is_found(
    everything: list[Manifest], mistake: Callable[[dict[str, Manifest]], None], told: str
) -> None:
    manifests = copy.deepcopy(everything)
    mistake({f"{each['kind']}/{each['metadata']['name']}": each for each in manifests})

    assert told in "\n".join(problems(manifests, VERSIONS[-1]))


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
