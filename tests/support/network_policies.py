"""Who reaches whom, by the network policies of manifests together: each of them can only allow more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tests.support.kustomize import Manifest
from tests.support.manifest_links import pods, selected
from tests.support.manifest_schemas import containers, pod_of

GATEWAY: Final = "gateway"
TF_SERVING: Final = "tf-serving"
METRICS: Final = {GATEWAY: "metrics", TF_SERVING: "rest"}
"""The port that has the metrics of a container."""
PROMETHEUS: Final = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
    "podSelector": {
        "matchExpressions": [{"key": "app.kubernetes.io/name", "operator": "In", "values": ["prometheus"]}]
    },
}


def reach_problems(manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    """Rules by which more than gateways call TF Serving, or more than Prometheus reads metrics."""
    for policy in manifests:
        if policy["kind"] == "NetworkPolicy":
            for called in pods(policy["spec"]["podSelector"], manifests):
                for rule in policy["spec"].get("ingress", ()):
                    for problem in _rule_problems(rule, called, manifests):
                        yield policy, problem


def callers(rule: Mapping[str, Any], manifests: Sequence[Manifest]) -> list[str] | None:
    """The names of all whose pods a rule lets in; None where it lets in some of which nothing is known here."""
    peers = rule.get("from", ())
    if not peers or any(peer.keys() != {"podSelector"} or selected(peer["podSelector"], {}) for peer in peers):
        return None
    return sorted({each["metadata"]["name"] for peer in peers for each in pods(peer["podSelector"], manifests)})


def gateways(manifests: Sequence[Manifest]) -> list[str]:
    """Those that try canaries too."""
    return sorted(each["metadata"]["name"] for each in manifests if _serves(each) == GATEWAY)


def _rule_problems(rule: Mapping[str, Any], called: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
    name, serves = called["metadata"]["name"], _serves(called)
    opened = _opened(rule, called)
    metrics = METRICS.get(serves)
    if metrics in opened and rule.get("from") != [PROMETHEUS]:
        yield f"others than Prometheus read the metrics of {name}"
    if serves == TF_SERVING and opened - {metrics} and callers(rule, manifests) != gateways(manifests):
        yield f"those that may call {name} are not the gateways"


def _serves(manifest: Manifest) -> str:
    """The container that its pods are there for."""
    pod = pod_of(manifest)
    return pod["spec"]["containers"][0]["name"] if pod else ""


def _opened(rule: Mapping[str, Any], called: Manifest) -> set[str]:
    """The names of the ports that a rule opens: all, where it names none or a range."""
    wanted = {None if "endPort" in port else port.get("port") for port in rule.get("ports") or ({},)}
    there = [port for container in containers(called) for port in container.get("ports", ())]
    return {port["name"] for port in there if wanted & {None, port["name"], port["containerPort"]}}
