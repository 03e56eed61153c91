"""Alerts and dashboard ask for metrics and labels that the server has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Histogram

from service.errors import ERROR_TABLE
from service.telemetry import Family, Telemetry
from tests.support.dockerfiles import REPOSITORY

DOCKER = REPOSITORY / "docker"
RULES = [
    rule
    for group in yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
DASHBOARD = json.loads((DOCKER / "grafana" / "dashboards" / "malgil.json").read_text(encoding="utf-8"))
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}
OF_PROMETHEUS = {"up": {"job", "instance"}}


def exported() -> dict[str, set[str]]:
    """The labels of every series that the server has, by name."""
    telemetry = Telemetry()
    telemetry.show_versions(lambda: [("en-fr", 1, "ready")])
    versions = next(each for each in telemetry.registry.collect() if each.name == "malgil_model_version_state")
    found = {versions.name: set(versions.samples[0].labels)}
    for attribute in vars(telemetry).values():
        metric = attribute._metric if isinstance(attribute, Family) else attribute
        if not hasattr(metric, "_labelnames"):
            continue
        labels = set(metric._labelnames)
        if isinstance(metric, Counter):
            found[f"{metric._name}_total"] = labels
        elif isinstance(metric, Histogram):
            found |= {f"{metric._name}_{part}": labels for part in ("sum", "count")}
            found[f"{metric._name}_bucket"] = labels | {"le"}
        else:
            found[metric._name] = labels
    return found


EXPORTED = exported()
RECORDED = {
    "malgil:answered_calls:rate5m": set(),
    "malgil:failed_calls:rate5m": {"error_type"},
    "malgil:calls:rate5m": set(),
}


def dashboard_queries() -> Iterator[tuple[str, str]]:
    for title, panel in PANELS.items():
        yield from ((title, target["expr"]) for target in panel["targets"])


QUERIES = [*((rule.get("alert") or rule["record"], rule["expr"]) for rule in RULES), *dashboard_queries()]


def series(query: str) -> Iterator[tuple[str, str]]:
    """The series that a query names, and what it says within braces."""
    for match in re.finditer(r"(?<![\w:])(malgil[_:][\w:]+|up)\b(?:\{([^}]*)\})?", query):
        yield match[1], match[2] or ""


def test_what_the_server_exports_is_known_here() -> None:
    assert EXPORTED["malgil_num_requests_waiting"] == set()
    assert EXPORTED["malgil_request_failure_total"] == {"error_type"}
    assert EXPORTED["malgil_batch_size_bucket"] == {"model_name", "le"}
    names = {sample.name for family in Telemetry().registry.collect() for sample in family.samples}
    assert {name for name in names if not name.endswith("_created")} <= EXPORTED.keys()


@pytest.mark.parametrize(("place", "query"), QUERIES)
def test_queries_ask_for_what_there_is(place: str, query: str) -> None:
    known = EXPORTED | RECORDED | OF_PROMETHEUS
    found = list(series(query))

    assert found, query
    assert [name for name, _ in found if name not in known] == []
    for name, matchers in found:
        assert set(re.findall(r"(\w+)=~?\"", matchers)) <= known[name] | {"job", "instance"}
    labels = {"instance"}.union(*(known[name] for name, _ in found))
    for listed in re.findall(r"(?:by|on) \(([^)]*)\)", query):
        assert {label.strip() for label in listed.split(",")} <= labels


@pytest.mark.parametrize(("place", "query"), QUERIES)
def test_errors_that_are_asked_for_exist(place: str, query: str) -> None:
    types = {row.error_type for row in ERROR_TABLE.values()} | {"internal"}
    named = [name for text in re.findall(r'error_type=~?"([^"]*)"', query) for name in text.split("|")]

    assert set(named) <= types


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alerts_say_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description"}
    labels = re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values()))
    assert all(re.search(rf"by \([^)]*\b{label}\b", rule["expr"]) for label in labels)


def test_rules_record_what_others_use() -> None:
    assert {rule["record"] for rule in RULES if "record" in rule} == RECORDED.keys()


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for _, query in dashboard_queries() for name, _ in series(query)}
    stems = {re.sub(r"_(bucket|sum|count)$", "", name) for name in EXPORTED}

    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown} == stems
    assert len(PANELS) == len(DASHBOARD["panels"])
    assert len({panel["id"] for panel in PANELS.values()}) == len(PANELS)


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS.values():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_grafana_finds_its_source_and_its_dashboard() -> None:
    provisioning = DOCKER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "malgil.yaml").read_text())["providers"]
    grafana = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    asking = [
        *PANELS.values(),
        *(target for panel in PANELS.values() for target in panel["targets"]),
        variables["model"],
    ]

    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert mounts["./docker/grafana/dashboards"] == provider["options"]["path"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == "/etc/grafana/dashboards/malgil.json"
    assert {(each["datasource"]["type"], each["datasource"]["uid"]) for each in asking} == {
        (source["type"], "${datasource}")
    }
    assert {name: variable["type"] for name, variable in variables.items()} == {
        "datasource": "datasource",
        "model": "query",
    }
    assert variables["datasource"]["query"] == source["type"]
    assert variables["datasource"]["current"] == {"text": source["name"], "value": source["uid"]}


def test_prometheus_reads_the_rules_and_finds_the_servers() -> None:
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
    (job,) = config["scrape_configs"]
    (names,) = job["dns_sd_configs"]

    assert config["rule_files"] == ["/etc/prometheus/alerts.yml"]
    assert "./docker/prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]
    assert set(names["names"]) == {"gateway", "standalone"} <= services.keys()
    assert all("default" in services[name].get("networks", ["default"]) for name in names["names"])
