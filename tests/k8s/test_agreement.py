"""What the manifests say agrees with what the programs in the pods do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.backends.tf_serving.backend import RESOLVE_S
from service.engine.labels import parse_labels
from service.rollout import stores
from service.rollout.steps import for_canaries
from service.settings import ENVIRONMENT_PREFIX, Settings
from service.telemetry import Telemetry
from tests.support.kustomize import Manifest, render
from tests.support.manifest_schemas import containers, quantity
from tests.support.network_policies import PROMETHEUS, callers
from tests.support.overlays import K8S, NAMES, complete

REPOSITORY = Path(__file__).parents[2]
DNS_CACHE_S = 30
"""The longest that CoreDNS, as clusters come with it, lets an answer be kept."""


@pytest.fixture(scope="module", params=NAMES)
def overlay(request: pytest.FixtureRequest) -> dict[str, Manifest]:
    manifests = render(K8S / "overlays" / request.param)
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in manifests}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    return render(complete(tmp_path_factory.mktemp("copy")))


def pod(overlay: dict[str, Manifest], name: str) -> dict[str, Any]:
    return overlay[f"Deployment/{name}"]["spec"]["template"]["spec"]


def gateways(overlay: dict[str, Manifest]) -> list[str]:
    return [name.partition("/")[2] for name in overlay if name.startswith("Deployment/malgil-gateway")]


def variables(overlay: dict[str, Manifest], name: str) -> dict[str, str]:
    (source,) = pod(overlay, name)["containers"][0]["envFrom"]
    return overlay[f"ConfigMap/{source['configMapRef']['name']}"]["data"]


def settings(overlay: dict[str, Manifest], gateway: str) -> Settings:
    given = variables(overlay, gateway)
    assert {name.removeprefix(ENVIRONMENT_PREFIX).lower() for name in given} <= Settings.model_fields.keys()
    return Settings(**{name.removeprefix(ENVIRONMENT_PREFIX).lower(): value for name, value in given.items()})


def test_gateways_find_tf_serving_and_are_heard(overlay: dict[str, Manifest]) -> None:
    service = overlay["Service/malgil-tf-serving"]
    assert service["spec"]["clusterIP"] == "None"
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]}["grpc"] == 8500
    for gateway in gateways(overlay):
        said = settings(overlay, gateway)
        (container,) = pod(overlay, gateway)["containers"]
        assert (said.backend, said.host) == ("tf-serving", "0.0.0.0")
        assert said.tf_serving_addresses == "malgil-tf-serving:8500"
        assert [port["containerPort"] for port in container["ports"]] == [said.port, said.grpc_port, said.metrics_port]
        # Else a Service would set MALGIL_GATEWAY_PORT and the like.
        assert pod(overlay, gateway)["enableServiceLinks"] is False


def test_models_are_those_that_are_served(overlay: dict[str, Manifest]) -> None:
    (files,) = [each["data"] for name, each in overlay.items() if name.startswith("ConfigMap/malgil-tf-serving-files")]
    names = re.findall(r'name: "(.*)"', files["models.config"])
    kept = re.findall(r"num_versions: (\d+)", files["models.config"])

    assert names == re.findall(r'base_path: "/models/(.*)"', files["models.config"])
    assert len(kept) == len(names)
    assert min(map(int, kept)) >= 2
    for gateway in gateways(overlay):
        assert settings(overlay, gateway).tf_serving_models.split(",") == names
    (container,) = pod(overlay, "malgil-tf-serving")["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] in {f"/v1/models/{name}/metadata" for name in names}


def test_tf_serving_has_the_flags_that_are_kept_for_it(overlay: dict[str, Manifest]) -> None:
    (container,) = pod(overlay, "malgil-tf-serving")["containers"]
    kept = (REPOSITORY / "docker" / "tf-serving.flags").read_text(encoding="utf-8").split()
    said = dict(each.split("=", 1) for each in container["args"])
    cores, threads = said["--tensorflow_inter_op_parallelism"], said["--grpc_max_threads"]
    most = sum(overlay[f"HorizontalPodAutoscaler/{gateway}"]["spec"]["maxReplicas"] for gateway in gateways(overlay))
    limit = quantity(container["resources"]["limits"]["cpu"])

    assert {flag.partition("=")[0] for flag in kept} <= said.keys()
    for flag, value in (each.split("=", 1) for each in kept):
        if flag not in ("--tensorflow_inter_op_parallelism", "--grpc_max_threads"):
            assert said[flag] == value
    assert (cores, threads) == ("$(CORES)", "$(GRPC_MAX_THREADS)")
    assert container["env"][0]["valueFrom"]["resourceFieldRef"]["resource"] == "limits.cpu"
    assert limit == int(limit)
    for gateway in gateways(overlay):
        said_here = settings(overlay, gateway)
        calls = said_here.tf_serving_concurrent_runs + len(said_here.tf_serving_models.split(","))
        assert said_here.tf_serving_concurrent_runs == limit
        assert int(variables(overlay, "malgil-tf-serving")["GRPC_MAX_THREADS"]) >= 2 * most * calls


def test_stopping_takes_its_time(overlay: dict[str, Manifest]) -> None:
    def times(name: str) -> tuple[float, float]:
        (container,) = pod(overlay, name)["containers"]
        stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        return stop, pod(overlay, name)["terminationGracePeriodSeconds"] - stop

    for gateway in gateways(overlay):
        stop_s, left_s = times(gateway)
        said = settings(overlay, gateway)
        assert stop_s >= 10
        assert left_s >= said.drain_timeout_s + 5
        assert said.drain_timeout_s * 1000 >= said.default_timeout_ms
    stop_s, left_s = times("malgil-tf-serving")
    assert stop_s >= DNS_CACHE_S + RESOLVE_S + 25
    assert left_s >= 5
    # What takes its place is certified by then.
    assert overlay["Deployment/malgil-tf-serving"]["spec"]["minReadySeconds"] >= DNS_CACHE_S + RESOLVE_S


def test_labels_are_mounted_and_watched(overlay: dict[str, Manifest]) -> None:
    data = overlay["ConfigMap/malgil-labels"]["data"]  # by its own name, which no hash changes
    for gateway in gateways(overlay):
        said = settings(overlay, gateway)
        assert said.labels_file is not None
        (mount,) = [
            each
            for each in pod(overlay, gateway)["containers"][0]["volumeMounts"]
            if each["mountPath"] == str(said.labels_file.parent)
        ]
        (volume,) = [each for each in pod(overlay, gateway)["volumes"] if each["name"] == mount["name"]]
        assert volume["configMap"] == {"name": "malgil-labels"}
        labels = parse_labels(data[said.labels_file.name])
        assert labels.keys() <= set(said.tf_serving_models.split(","))
        assert all({"stable", "canary", "default", "previous"} == of_model.keys() for of_model in labels.values())


def test_labels_for_canary_gateways_follow_from_the_others() -> None:
    """``malgil rollout`` writes both, in a file and in the ConfigMap."""
    folder = K8S / "overlays" / "canary"
    labels, for_canary_gateways = (
        parse_labels((folder / name).read_text("utf-8")) for name in (stores.KEY, stores.CANARY_KEY)
    )
    (config_map,) = [each for each in render(folder) if each["metadata"]["name"] == "malgil-labels"]

    assert for_canary_gateways == for_canaries(labels)
    assert config_map["data"].keys() == {stores.KEY, stores.CANARY_KEY}


def test_probes_ask_different_things(overlay: dict[str, Manifest]) -> None:
    for name in (*gateways(overlay), "malgil-tf-serving"):
        (container,) = pod(overlay, name)["containers"]
        startup, readiness, liveness = (container[f"{each}Probe"] for each in ("startup", "readiness", "liveness"))
        asked = [
            {how: said for how, said in each.items() if how in ("httpGet", "tcpSocket", "grpc")}
            for each in (startup, readiness, liveness)
        ]
        assert all(asked)
        assert asked[0] != asked[1] != asked[2] != asked[0]
        # Who is restarted for being busy makes the others busier.
        assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60
    (gateway,) = pod(overlay, "malgil-gateway")["containers"]
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_there_are_always_two_where_it_matters(overlay: dict[str, Manifest]) -> None:
    assert overlay["HorizontalPodAutoscaler/malgil-gateway"]["spec"]["minReplicas"] >= 2
    for name in ("malgil-gateway", "malgil-tf-serving"):
        # Else every apply would set back what the autoscaler has decided.
        assert "replicas" not in overlay[f"Deployment/{name}"]["spec"]
        assert overlay[f"Deployment/{name}"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert overlay[f"PodDisruptionBudget/{name}"]["spec"]["maxUnavailable"] == 1


def test_the_autoscaler_reads_a_metric_that_there_is(overlay: dict[str, Manifest]) -> None:
    metric, _ = overlay["HorizontalPodAutoscaler/malgil-tf-serving"]["spec"]["metrics"]
    name = metric["object"]["metric"]["name"]
    adapter = (K8S / "components" / "monitoring" / "prometheus-adapter.yaml").read_text("utf-8")
    (rule,) = yaml.safe_load(adapter)["rules"]["custom"]
    described = metric["object"]["describedObject"]
    resources = {each["resource"] for each in rule["resources"]["overrides"].values()}

    assert f"\n{name} " in Telemetry().render().decode()
    assert rule["seriesQuery"].startswith(f"{name}{{")
    assert described["kind"].lower() in resources
    assert {f"{described['kind']}/{described['name']}"} == {each for each in overlay if each.startswith("Namespace/")}


def test_who_may_talk_to_whom(overlay: dict[str, Manifest]) -> None:
    deny = overlay["NetworkPolicy/malgil-default-deny"]["spec"]
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in deny
    assert "egress" not in deny
    for name, each in overlay.items():
        if name.startswith(("Deployment/", "Job/")):
            assert deny["podSelector"]["matchLabels"].items() <= each["spec"]["template"]["metadata"]["labels"].items()
    calls, metrics = overlay["NetworkPolicy/malgil-tf-serving"]["spec"]["ingress"]
    assert [port["port"] for port in calls["ports"]] == ["grpc"]
    assert callers(calls, list(overlay.values())) == sorted(gateways(overlay))
    assert [port["port"] for port in metrics["ports"]] == ["rest"]
    assert metrics["from"] == [PROMETHEUS]
    assert "egress" not in overlay["NetworkPolicy/malgil-tf-serving"]["spec"]
    for gateway in gateways(overlay):
        clients, prometheus = overlay[f"NetworkPolicy/{gateway}"]["spec"]["ingress"]
        assert [port["port"] for port in clients["ports"]] == ["http", "grpc"]
        assert [port["port"] for port in prometheus["ports"]] == ["metrics"]
        assert prometheus["from"] == [PROMETHEUS]
    for name, each in overlay.items():
        if name.startswith("ServiceAccount/"):
            assert each["automountServiceAccountToken"] is False


def test_the_route_waits_longer_than_the_gateway(everything: list[Manifest]) -> None:
    (route,) = [each for each in everything if each["kind"] == "HTTPRoute"]
    assert len(route["spec"]["rules"]) == 2
    for rule in route["spec"]["rules"]:
        assert int(rule["timeouts"]["request"].removesuffix("s")) * 1000 > Settings().max_timeout_ms
        assert {match["path"]["value"] for match in rule["matches"]} == {"/v1"}


def test_canaries_get_a_share_by_weight_and_who_asks_by_header(everything: list[Manifest]) -> None:
    (route,) = [each for each in everything if each["kind"] == "HTTPRoute"]
    asked, shared = route["spec"]["rules"]
    assert [match["headers"] for match in asked["matches"]] == [[{"name": "x-malgil-track", "value": "canary"}]]
    assert [backend["name"] for backend in asked["backendRefs"]] == ["malgil-gateway-canary"]
    assert {backend["name"]: backend["weight"] for backend in shared["backendRefs"]} == {
        "malgil-gateway": 95,
        "malgil-gateway-canary": 5,
    }


def test_images_are_those_of_compose(overlay: dict[str, Manifest]) -> None:
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text("utf-8"))["services"]
    images = {container["image"] for each in overlay.values() for container in containers(each)}

    assert {"malgil/gateway", "tensorflow/serving"} <= {image.partition(":")[0] for image in images}
    assert images <= {service["image"] for service in services.values()}
