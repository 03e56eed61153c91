"""``docker compose --profile observability``: what Prometheus scrapes, its rules, the dashboard's queries, an alert.

Grafana itself is run nowhere here; tests/docker holds together what it is provisioned with.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.composed import BODIES, GATEWAY, PORTS, SERVICES, Composed, ask, docker, states
from tests.support.dockerfiles import REPOSITORY
from tests.support.load import Load, wait_until
from tests.support.pages import removal_command

pytestmark = pytest.mark.timeout(1200)

FOLDER = REPOSITORY / "docker" / "prometheus"
RULES = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))["groups"] for rule in group["rules"]
]
PANELS = json.loads((REPOSITORY / "docker" / "grafana" / "dashboards" / "malgil.json").read_text("utf-8"))["panels"]
EMPTY = {"Tokenizers that differ"}
"""Panels that have nothing to show while all is well."""
RATE_INTERVAL = "20s"
"""What Grafana makes of ``$__rate_interval``: four times the interval of scrapes."""
SCORED = {"inputs": "Be nice.", "targets": "Sois gentil !", "model": "en-fr"}
REFUSED = """
cp -r /models/en-fr/1 /models/en-fr/.3
sed -i 's/"Stop!"/"Go!"/' /models/en-fr/.3/assets/manifest.json
mv /models/en-fr/.3 /models/en-fr/3
"""
"""Publishes a version whose certificate asks for something else than it was given for."""


@pytest.fixture(scope="module")
def prometheus(compose: Composed) -> Iterator[httpx.Client]:
    """Its HTTP interface, once it is healthy; beside a version that is refused, whose alert takes a minute to fire."""
    compose("--profile", "observability", "up", "--detach", "--no-build", "prometheus")
    compose("run", "--rm", "--no-deps", "--entrypoint", "/bin/sh", "export", "-e", "-c", REFUSED)
    compose.wait_until_healthy("prometheus")
    with httpx.Client(base_url=f"http://127.0.0.1:{PORTS['PROMETHEUS_PORT']}/api/v1/", timeout=10.0) as client:
        yield client
    compose("--profile", "observability", "stop", "prometheus")


def told(prometheus: httpx.Client, what: str, **parameters: str) -> Any:
    answer = prometheus.get(what, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def numbers(prometheus: httpx.Client, query: str) -> list[float]:
    """The values of an instant query that are numbers: a quantile of nothing is none."""
    found = [float(each["value"][1]) for each in told(prometheus, "query", query=query)["result"]]
    return [value for value in found if math.isfinite(value)]


def alert(prometheus: httpx.Client, name: str) -> dict[str, Any] | None:
    found = [each for each in told(prometheus, "alerts")["alerts"] if each["labels"]["alertname"] == name]
    return found[0] if found else None


def promtool(*words: str, files: Path = FOLDER) -> str:
    """What it says of files that are mounted where compose mounts them; ends with an error where they are wrong."""
    mount = ("--volume", f"{files}:/etc/prometheus:ro", "--network", "none")
    return docker("run", "--rm", *mount, "--entrypoint", "promtool", SERVICES["prometheus"]["image"], *words)


@pytest.mark.parametrize("what", ["config prometheus.yml", "rules alerts.yml"])
def test_promtool_finds_nothing_wrong(images: Composed, what: str) -> None:
    kind, file = what.split()
    said = promtool("check", kind, "--lint=all", "--lint-fatal", f"/etc/prometheus/{file}")

    assert f"SUCCESS: {len(RULES)} rules found" in said


def test_promtool_finds_nothing_wrong_with_the_alerts_of_kubernetes(images: Composed, tmp_path: Path) -> None:
    manifest = REPOSITORY / "k8s" / "components" / "monitoring" / "alerts.yaml"
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(yaml.safe_load(manifest.read_text("utf-8"))["spec"]))
    tmp_path.chmod(0o755)

    assert "SUCCESS" in promtool(
        "check", "rules", "--lint=all", "--lint-fatal", "/etc/prometheus/alerts.yml", files=tmp_path
    )


def test_alerts_fire_when_they_should(images: Composed) -> None:
    assert "SUCCESS" in promtool("test", "rules", "/etc/prometheus/alerts.test.yml")


def test_prometheus_writes_to_its_volume_alone(compose: Composed, prometheus: httpx.Client) -> None:
    tried = docker(
        *("exec", compose.name("prometheus"), "/bin/sh", "-c"),
        "id -u; touch /prometheus/x && rm /prometheus/x && echo written; touch /x /etc/prometheus/x",
        check=False,
    )

    assert compose.container("prometheus")["HostConfig"]["CapDrop"] == ["ALL"]
    assert {"65534", "written"} <= set(tried.splitlines())
    assert tried.count("Read-only file system") == 2


def test_the_gateway_is_scraped(compose: Composed, prometheus: httpx.Client) -> None:
    """And alone: ``standalone`` does not run, which is no target then instead of one that is down."""

    def targets() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = told(prometheus, "targets", state="active")["activeTargets"]
        return found

    wait_until(lambda: [each["health"] for each in targets()] == ["up"], "the gateway is scraped")
    (target,) = targets()
    assert target["labels"]["job"] == "malgil"
    assert target["scrapeUrl"] == f"{compose.address('gateway')}/metrics"


def test_every_rule_is_evaluated(prometheus: httpx.Client) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in told(prometheus, "rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: "unknown" not in {rule["health"] for rule in rules()}, "each has been evaluated")
    assert [(rule["name"], rule["health"]) for rule in rules()] == [
        (rule.get("alert") or rule["record"], "ok") for rule in RULES
    ]


def test_the_dashboard_shows_what_is_sent(prometheus: httpx.Client) -> None:
    """Each query has numbers, once texts were generated and scored and an error answered."""
    models = told(prometheus, "label/model_name/values", **{"match[]": "malgil_model_version_state"})
    assert models == sorted(SERVICES["export"]["command"])
    queries = [
        (panel["title"], target["expr"].replace("$model", "|".join(models)).replace("$__rate_interval", RATE_INTERVAL))
        for panel in PANELS
        for target in panel["targets"]
    ]
    assert not any("$" in query for _, query in queries)

    end = time.monotonic() + 90.0
    with Load(GATEWAY, [*BODIES, {"inputs": ""}], clients=1):
        without = queries
        while {title for title, _ in without} - EMPTY and time.monotonic() < end:
            httpx.post(f"{GATEWAY}/v1/score", json=SCORED, timeout=60.0).raise_for_status()
            without = [(title, query) for title, query in queries if not numbers(prometheus, query)]

    assert {title for title, _ in without} == EMPTY, without


def test_a_refused_version_is_told_until_it_is_removed_as_the_page_says(
    compose: Composed, prometheus: httpx.Client
) -> None:
    """``docs/operations.md`` has the command, to the letter; what answered before goes on, what is removed does not."""
    wait_until(lambda: states("en-fr").get(3) == "refused", "version 3 is refused")
    wait_until(
        lambda: (alert(prometheus, "MalgilVersionRefused") or {"state": "none"})["state"] == "firing", "it is told"
    )
    firing = alert(prometheus, "MalgilVersionRefused")
    assert firing is not None
    assert firing["annotations"]["summary"] == "Version 3 of en-fr is refused."
    assert ask(BODIES[0])["model_version"] == 1

    with Load(GATEWAY, BODIES, clients=1) as load:
        compose.typed(removal_command())
        wait_until(lambda: states("en-fr") == {1: "ready"}, "version 3 is gone")
        wait_until(lambda: alert(prometheus, "MalgilVersionRefused") is None, "nothing is told any more")
    removed = httpx.post(f"{GATEWAY}/v1/generate", json={**BODIES[0], "version": 3}, timeout=60.0)

    assert {(each.status, each.answer["model_version"]) for each in load.exchanges} == {(200, 1)}
    assert removed.status_code == 404
    assert removed.json()["error"] == "model 'en-fr' has no version 3, but 1"
    assert docker("exec", compose.name("tf-serving"), "ls", "-A", "/models/en-fr") == "1\n"
