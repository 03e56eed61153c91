"""The component ``monitoring``: what is scraped is there, and alerts are those that are told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support.kustomize import Manifest, render
from tests.support.manifest_links import pods, selected
from tests.support.network_policies import gateways
from tests.support.overlays import complete

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    return render(complete(tmp_path_factory.mktemp("copy")))


def test_metrics_are_where_prometheus_reads_them(everything: list[Manifest]) -> None:
    (config,) = [
        each["data"]["monitoring.config"] for each in everything if "monitoring.config" in each.get("data", {})
    ]
    monitors = {each["metadata"]["name"]: each["spec"] for each in everything if each["kind"] == "ServiceMonitor"}
    read = {
        name: [each["path"] for each in monitors[name]["endpoints"]] for name in ("malgil-gateway", "malgil-tf-serving")
    }

    assert read == {"malgil-gateway": ["/metrics"], "malgil-tf-serving": re.findall(r'path: "(.*)"', config)}
    assert "enable: true" in config


def test_alerts_are_those_of_compose(everything: list[Manifest]) -> None:
    """Prometheus' operator reads no file of rules: what ``docker/`` has is written there a second time."""
    (of_compose,) = yaml.safe_load((REPOSITORY / "docker" / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"]
    manifests = {each["kind"]: each for each in everything}
    same, of_kubernetes = manifests["PrometheusRule"]["spec"]["groups"]

    assert same == of_compose, "copy the group of docker/prometheus/alerts.yml to k8s/components/monitoring/alerts.yaml"
    assert all("malgil_" not in each["expr"] for each in of_kubernetes["rules"])


def test_gateways_are_the_job_that_alerts_know(everything: list[Manifest]) -> None:
    monitors = {each["metadata"]["name"]: each["spec"] for each in everything if each["kind"] == "ServiceMonitor"}
    services = [each["metadata"]["labels"] for each in everything if each["kind"] == "Service"]
    jobs = {
        name: {
            labels[spec["jobLabel"]] for labels in services if spec["selector"]["matchLabels"].items() <= labels.items()
        }
        for name, spec in monitors.items()
    }

    assert [each["port"] for each in monitors["malgil-gateway"]["endpoints"]] == ["metrics"]
    assert jobs == {"malgil-gateway": {"malgil"}, "malgil-tf-serving": {"tf-serving"}}


def test_each_gateway_is_scraped_once(everything: list[Manifest]) -> None:
    """What waits is summed up over the namespace: twice the same would count twice, and none not at all."""
    monitors = {each["metadata"]["name"]: each["spec"] for each in everything if each["kind"] == "ServiceMonitor"}
    scraped = [
        pod["metadata"]["name"]
        for service in everything
        if service["kind"] == "Service"
        and selected(monitors["malgil-gateway"]["selector"], service["metadata"]["labels"])
        for pod in pods({"matchLabels": service["spec"]["selector"]}, everything)
    ]

    assert sorted(scraped) == gateways(everything) == ["malgil-gateway", "malgil-gateway-canary"]


def test_every_alert_has_its_remedy(everything: list[Manifest]) -> None:
    page = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
    manifests = {each["kind"]: each for each in everything}
    alerts = [
        rule["alert"]
        for group in manifests["PrometheusRule"]["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]

    assert len(alerts) >= 10
    assert [alert for alert in alerts if f"\n| `{alert}` |" not in page] == []
