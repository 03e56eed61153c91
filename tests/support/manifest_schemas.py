"""Manifests against the strict schemas of a Kubernetes version, and what schemas take that the API server does not."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.support.kustomize import Manifest

VERSIONS: Final = ("1.35.0", "1.36.0", "1.37.0")
SCHEMAS: Final = resources.files("kubernetes_validate") / "kubernetes-json-schema"
CUSTOM: Final = Path(__file__).parents[1] / "k8s" / "custom_resources.yaml"

QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)((?:[KMGTPE]i)|[numkMGTPE]|[eE][+-]?[0-9]+)?")
_UNITS: Final = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_UNITS_OF_TWO: Final = {f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", 1)}
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_PORT_NAME: Final = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")


def quantity(text: Any) -> float:
    """The number that a quantity such as ``500m`` or ``2Gi`` stands for. Raises ValueError."""
    found = QUANTITY.fullmatch(str(text))
    if found is None:
        raise ValueError(f"{text!r} is no quantity")
    number, unit = float(found[1]), found[2] or ""
    if unit in _UNITS or unit in _UNITS_OF_TWO:
        return number * (_UNITS | _UNITS_OF_TWO)[unit]
    return float(found[0])


@functools.lru_cache
def _registry(version: str) -> Registry:
    definitions = json.loads((SCHEMAS / f"v{version}-local-strict" / "_definitions.json").read_text())
    return Resource.from_contents(definitions) @ Registry()


@functools.lru_cache
def _validator(version: str, kind: str, api_version: str) -> Draft202012Validator | None:
    """None where this version of Kubernetes has no such kind."""
    custom = yaml.safe_load(CUSTOM.read_text(encoding="utf-8"))
    if f"{api_version}/{kind}" in custom:
        return Draft202012Validator(_closed(custom[f"{api_version}/{kind}"]))
    group, _, number = api_version.rpartition("/")
    name = "-".join(each for each in (kind.lower(), group.partition(".")[0], number) if each)
    file = SCHEMAS / f"v{version}-local-strict" / f"{name}.json"
    if not file.is_file():
        return None
    return Draft202012Validator(json.loads(file.read_text()), registry=_registry(version))


def _closed(schema: Any) -> Any:
    """A schema whose objects have no properties but those that it names."""
    if isinstance(schema, dict):
        closed = {name: _closed(each) for name, each in schema.items()}
        return closed | {"additionalProperties": False} if "properties" in closed else closed
    return [_closed(each) for each in schema] if isinstance(schema, list) else schema


def schema_problems(manifest: Manifest, version: str) -> Iterator[str]:
    """What the schema of its kind says against it."""
    kind, api_version = str(manifest.get("kind")), str(manifest.get("apiVersion"))
    validator = _validator(version, kind, api_version)
    if validator is None:
        yield f"Kubernetes {version} has no {api_version} {kind}"
        return
    for error in validator.iter_errors(manifest):
        yield f"/{'/'.join(map(str, error.absolute_path))}: {error.message[:200]} (Kubernetes {version})"


def value_problems(manifest: Manifest) -> Iterator[str]:
    """Values that are strings or numbers to the schema, but must have a form."""
    metadata = manifest["metadata"]
    if not _NAME.fullmatch(metadata["name"]) or len(metadata["name"]) > 63:
        yield f"metadata/name: {metadata['name']!r} is no name"
    for where, value in _walk(manifest):
        last = where.rpartition("/")[2]
        if re.search(r"/(requests|limits)/[a-z-]+$", where) or last in ("averageValue", "sizeLimit"):
            try:
                quantity(value)
            except ValueError as error:
                yield f"{where}: {error}"
        elif re.search(r"(/labels|/matchLabels|/selector)/[^/]+(/[^/]+)?$", where) and not isinstance(value, str):
            yield f"{where}: {value!r} must be a string"
        elif re.search(r"/(containerPort|port|targetPort)$", where):
            is_named = isinstance(value, str) and _PORT_NAME.fullmatch(value)
            if not is_named and not (isinstance(value, int) and 0 < value < 65_536):
                yield f"{where}: {value!r} is no port"
    for container in containers(manifest):
        yield from _resource_problems(container)


def _resource_problems(container: dict[str, Any]) -> Iterator[str]:
    """Every container says what it needs at least and at most."""
    said = container.get("resources", {})
    for name in ("cpu", "memory"):
        least, most = (said.get(each, {}).get(name) for each in ("requests", "limits"))
        if least is None or most is None:
            yield f"{container['name']}: resources: requests and limits must say {name}"
            continue
        try:
            if quantity(least) > quantity(most):
                yield f"{container['name']}: resources: {name}: {least} is requested, and {most} the limit"
        except ValueError:
            pass  # told above


def pod_of(manifest: Manifest) -> dict[str, Any] | None:
    """The template of its pods, if it has one."""
    return (manifest.get("spec") or {}).get("template") if manifest["kind"] in ("Deployment", "Job") else None


def containers(manifest: Manifest) -> list[dict[str, Any]]:
    """Its containers, those that only begin its pods included."""
    pod = (pod_of(manifest) or {}).get("spec", {})
    return [*pod.get("initContainers", ()), *pod.get("containers", ())]


def _walk(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _walk(each, f"{where}/{str(name).replace('/', '~')}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _walk(each, f"{where}/{index}")
    else:
        yield where, value
