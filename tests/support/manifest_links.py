"""What manifests say of each other: selectors, ports, and things by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.support.kustomize import CLUSTER_WIDE, Manifest, references
from tests.support.manifest_schemas import containers, pod_of

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
DNS = (53,)
"""Of pods that are not ours."""


def link_problems(manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    """What does not fit together."""
    yield from _namespace_problems(manifests)
    names = {(each["kind"], each["metadata"]["name"]) for each in manifests}
    for each in manifests:
        for kind, holder, field in references([each]):
            if (kind, holder[field]) not in names:
                yield each, f"there is no {kind} {holder[field]}"
        checks = {
            "Deployment": _deployment_problems,
            "Job": _pod_problems,
            "Service": _service_problems,
            "PodDisruptionBudget": _budget_problems,
            "NetworkPolicy": _policy_problems,
            "ServiceMonitor": _monitor_problems,
            "HTTPRoute": _route_problems,
        }
        if each["kind"] in checks:
            for problem in checks[each["kind"]](each, manifests):
                yield each, problem


def _namespace_problems(manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    """Names and selectors mean things of one namespace: who is in another finds nothing there."""
    namespaced = [each for each in manifests if each["kind"] not in CLUSTER_WIDE]
    of_each = [each["metadata"].get("namespace") for each in namespaced]
    ((most, _),) = Counter(filter(None, of_each)).most_common(1) or ((None, 0),)
    for each, namespace in zip(namespaced, of_each, strict=True):
        if namespace is None:
            yield each, "it has no namespace"
        elif namespace != most:
            yield each, f"its namespace is {namespace}, that of the others {most}"


def selected(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes what has these labels; {} takes everything."""
    selector = selector or {}
    for rule in selector.get("matchExpressions", ()):
        has, values = rule["key"] in labels, rule.get("values", ())
        is_met = {
            "In": labels.get(rule["key"]) in values,
            "NotIn": labels.get(rule["key"]) not in values,
            "Exists": has,
            "DoesNotExist": not has,
        }
        if not is_met[rule["operator"]]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def pods(selector: Mapping[str, Any], manifests: Sequence[Manifest]) -> list[Manifest]:
    """What makes pods that the selector takes."""
    return [each for each in manifests if (pod := pod_of(each)) and selected(selector, pod["metadata"]["labels"])]


def ports(manifest: Manifest) -> dict[Any, str]:
    """The ports of its pods' containers, by number and by name, with their protocols."""
    said = [port for container in containers(manifest) for port in container.get("ports", ())]
    by_number: dict[Any, str] = {port["containerPort"]: port.get("protocol", "TCP") for port in said}
    return by_number | {port["name"]: port.get("protocol", "TCP") for port in said if "name" in port}


def _deployment_problems(manifest: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
    selector, labels = manifest["spec"]["selector"], manifest["spec"]["template"]["metadata"]["labels"]
    if not selector.get("matchLabels") or not selected(selector, labels):
        yield "its selector does not take its own pods"
    if len(pods(selector, manifests)) > 1:
        yield "its selector takes pods of others too"
    for spread in manifest["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
        if not spread["labelSelector"] or not selected(spread["labelSelector"], labels):
            yield f"its pods are not those that are spread over {spread['topologyKey']}"
    yield from _pod_problems(manifest, manifests)


def _pod_problems(manifest: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
    """Volumes, ports and variables within a pod."""
    volumes = {each["name"] for each in manifest["spec"]["template"]["spec"].get("volumes", ())}
    mounted = set()
    for container in containers(manifest):
        name = container["name"]
        for mount in container.get("volumeMounts", ()):
            mounted.add(mount["name"])
            if mount["name"] not in volumes:
                yield f"{name}: there is no volume {mount['name']}"
            if "subPath" in mount:
                yield f"{name}: {mount['mountPath']}: what is mounted by subPath is never brought up to date"
        of_container = list(container.get("ports", ()))
        if len({port.get("name", port["containerPort"]) for port in of_container}) < len(of_container):
            yield f"{name}: a port is there twice"
        known = {port["containerPort"] for port in of_container} | {port.get("name") for port in of_container}
        for probe in PROBES:
            for how, said in container.get(probe, {}).items():
                if how in ("httpGet", "tcpSocket", "grpc") and said["port"] not in known:
                    yield f"{name}: {probe}: there is no port {said['port']}"
        of_fields = [each.get("valueFrom", {}).get("resourceFieldRef", {}) for each in container.get("env", ())]
        for field in of_fields:
            if field and field.get("containerName", name) not in {each["name"] for each in containers(manifest)}:
                yield f"{name}: there is no container {field['containerName']}"
    if unused := volumes - mounted:
        yield f"nothing mounts the volume {', '.join(sorted(unused))}"


def _service_problems(manifest: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
    found = pods({"matchLabels": manifest["spec"]["selector"]}, manifests)
    if not found:
        yield "its selector takes no pods"
    for port in manifest["spec"]["ports"]:
        for each in found:
            if ports(each).get(port.get("targetPort", port["port"])) != port.get("protocol", "TCP"):
                yield f"pods of {each['metadata']['name']} have no port {port.get('targetPort', port['port'])}"


def _budget_problems(manifest: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
    if len(pods(manifest["spec"]["selector"], manifests)) != 1:
        yield "its selector must take the pods of one deployment"


def _policy_problems(manifest: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
    """Of pods that are in other namespaces nothing is known here."""
    spec = manifest["spec"]
    targets = pods(spec["podSelector"], manifests)
    if not targets:
        yield "its selector takes no pods"
    for rule in spec.get("ingress", ()):
        yield from _peer_problems(rule.get("from", ()), manifests)
        for port in rule.get("ports", ()):
            if any(ports(each).get(port["port"]) != port.get("protocol", "TCP") for each in targets):
                yield f"the pods that it is about have no port {port['port']}"
    for rule in spec.get("egress", ()):
        yield from _peer_problems(rule.get("to", ()), manifests)
        called = [
            each for peer in rule.get("to", ()) if "namespaceSelector" not in peer for each in _of(peer, manifests)
        ]
        for port in rule.get("ports", ()):
            if any(ports(each).get(port["port"]) != port.get("protocol", "TCP") for each in called):
                yield f"the pods that are called have no port {port['port']}"
            if not called and port["port"] not in DNS:
                yield f"port {port['port']} of others may be called"


def _of(peer: Mapping[str, Any], manifests: Sequence[Manifest]) -> list[Manifest]:
    return pods(peer["podSelector"], manifests) if "podSelector" in peer else []


def _peer_problems(peers: Sequence[Mapping[str, Any]], manifests: Sequence[Manifest]) -> Iterator[str]:
    if not peers:
        yield "a rule without peers is about everybody"
    for peer in peers:
        if not peer.keys() & {"ipBlock", "namespaceSelector"} and not _of(peer, manifests):
            yield f"{peer} takes no pods"


def _monitor_problems(manifest: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
    services = [
        each
        for each in manifests
        if each["kind"] == "Service" and selected(manifest["spec"]["selector"], each["metadata"].get("labels", {}))
    ]
    if not services:
        yield "its selector takes no services"
    for endpoint in manifest["spec"]["endpoints"]:
        for service in services:
            if endpoint["port"] not in {port["name"] for port in service["spec"]["ports"]}:
                yield f"Service {service['metadata']['name']} has no port {endpoint['port']}"


def _route_problems(manifest: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
    offered = {
        (each["metadata"]["name"], port["port"])
        for each in manifests
        if each["kind"] == "Service"
        for port in each["spec"]["ports"]
    }
    for rule in manifest["spec"]["rules"]:
        for backend in rule["backendRefs"]:
            if (backend["name"], backend["port"]) not in offered:
                yield f"there is no Service {backend['name']} with port {backend['port']}"
