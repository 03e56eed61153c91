"""What ``kubectl kustomize`` makes of a folder, for the features that ``k8s/`` uses; any other is an error.

Kustomize comes in no Python package. Where ``kubectl`` is there, a test holds this to it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.json_patch import apply

Manifest = dict[str, Any]
Key = tuple[str, str, str]
"""Kind, namespace and name."""

CLUSTER_WIDE: Final = ("Namespace",)
NEEDS_HASH: Final = "needs-hash"
"""Annotation, until the end, of what gets the hash of its content into its name."""
KNOWN: Final = {
    "apiVersion", "kind", "resources", "components", "namespace", "nameSuffix", "labels", "configMapGenerator",
    "patches", "images",
}  # fmt: skip
_HASH_LETTERS: Final = str.maketrans("013ae", "ghkmt")


class KustomizeError(ValueError):
    """A kustomization that makes no sense, or uses what is not known here."""


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML itself keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise KustomizeError(f"{node.start_mark.name}:{node.start_mark.line + 1}: a key is there twice")
        return mapping


def load(path: Path) -> list[Any]:
    """The documents of a file. Raises KustomizeError."""
    try:
        with path.open(encoding="utf-8") as file:
            return [each for each in yaml.load_all(file, StrictLoader) if each is not None]
    except (OSError, yaml.YAMLError) as error:
        raise KustomizeError(f"{path}: {error}") from error


def render(folder: Path) -> list[Manifest]:
    """The objects of a kustomization."""
    objects = _accumulate(folder, [])
    for each in objects:
        if (each["metadata"].get("annotations") or {}).pop(NEEDS_HASH, None):
            _rename(objects, each, f"{each['metadata']['name']}-{_hash(each)}")
        if not each["metadata"].get("annotations", True):
            del each["metadata"]["annotations"]
    return objects


def key(manifest: Manifest) -> Key:
    """What tells it from others."""
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", ""), metadata["name"]


def _accumulate(folder: Path, objects: list[Manifest]) -> list[Manifest]:
    """The objects of a folder; a component changes those that are there and may add some."""
    (said,) = load(folder / "kustomization.yaml")
    if unknown := said.keys() - KNOWN:
        raise KustomizeError(f"{folder}: {', '.join(sorted(unknown))}: not known here")
    for name in said.get("resources", ()):
        path = (folder / name).resolve()
        objects += _accumulate(path, []) if path.is_dir() else load(path)
    for generator in said.get("configMapGenerator", ()):
        _generate(folder, generator, objects)
    for name in said.get("components", ()):
        _accumulate((folder / name).resolve(), objects)
    if len({key(each) for each in objects}) < len(objects):
        raise KustomizeError(f"{folder}: an object is there twice")
    for patch in said.get("patches", ()):
        _patch(folder, patch, objects)
    if "namespace" in said:
        _set_namespace(objects, said["namespace"])
    if "nameSuffix" in said:
        for each in objects:
            if each["kind"] not in CLUSTER_WIDE:
                _rename(objects, each, each["metadata"]["name"] + said["nameSuffix"])
    for rule in said.get("labels", ()):
        _label(objects, rule)
    for image in said.get("images", ()):
        _set_image(objects, image)
    return objects


def _generate(folder: Path, generator: Mapping[str, Any], objects: list[Manifest]) -> None:
    known = {"name", "files", "literals", "behavior", "options"}
    options = generator.get("options", {})
    if unknown := (generator.keys() - known) | (options.keys() - {"disableNameSuffixHash"}):
        raise KustomizeError(f"{folder}: configMapGenerator: {', '.join(sorted(unknown))}: not known here")
    data = {}
    for written in generator.get("files", ()):
        name, _, path = written.rpartition("=")
        source = folder / path
        if not source.is_file():
            raise KustomizeError(f"{folder}: there is no {path}")
        data[name or source.name] = source.read_text(encoding="utf-8")
    for literal in generator.get("literals", ()):
        name, _, value = literal.partition("=")
        data[name] = value
    behavior = generator.get("behavior", "create")
    there = [each for each in objects if each["kind"] == "ConfigMap" and each["metadata"]["name"] == generator["name"]]
    if (behavior == "create") == bool(there) or behavior not in ("create", "merge", "replace"):
        raise KustomizeError(f"{folder}: configMapGenerator: {generator['name']} cannot be made by {behavior!r}")
    if there:
        there[0]["data"] = there[0]["data"] | data if behavior == "merge" else data
        return
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}
    if not options.get("disableNameSuffixHash"):
        made["metadata"]["annotations"] = {NEEDS_HASH: True}
    objects.append(made)


def _patch(folder: Path, patch: Mapping[str, Any], objects: list[Manifest]) -> None:
    if patch.keys() - {"target", "path", "patch"}:
        raise KustomizeError(f"{folder}: patches: {', '.join(patch)}: not known here")
    target = patch["target"]
    if not target or target.keys() - {"kind", "name", "labelSelector"}:
        raise KustomizeError(f"{folder}: patches: target {target}: not known here")
    (operations,) = load(folder / patch["path"]) if "path" in patch else [yaml.load(patch["patch"], StrictLoader)]
    is_deletion = isinstance(operations, dict)
    if is_deletion and operations.get("$patch") != "delete":
        raise KustomizeError(f"{folder}: patches: one that merges is not known here: write a JSON patch")
    wanted = dict([target["labelSelector"].split("=")]) if "labelSelector" in target else {}
    found = [
        each
        for each in objects
        if target.get("kind", each["kind"]) == each["kind"]
        and re.fullmatch(target.get("name", ".*"), each["metadata"]["name"])
        and wanted.items() <= each["metadata"].get("labels", {}).items()
    ]
    if not found and not is_deletion:
        raise KustomizeError(f"{folder}: patches: there is no {target}")
    for each in found:
        if is_deletion:
            objects.remove(each)
            continue
        for operation in operations:
            try:
                apply(each, operation)
            except ValueError as error:
                raise KustomizeError(f"{folder}: {key(each)}: {error}") from error


def _set_namespace(objects: list[Manifest], namespace: str) -> None:
    for each in objects:
        if each["kind"] == "Namespace":
            each["metadata"]["name"] = namespace
        else:
            each["metadata"]["namespace"] = namespace


def _rename(objects: list[Manifest], manifest: Manifest, name: str) -> None:
    """Give it another name, also where the others refer to it."""
    old, manifest["metadata"]["name"] = manifest["metadata"]["name"], name
    for kind, holder, field in references(objects):
        if kind == manifest["kind"] and holder[field] == old:
            holder[field] = name


def references(objects: list[Manifest]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The kind that is referred to, and the mapping and field that hold its name."""
    for each in objects:
        spec = each.get("spec") or {}
        if each["kind"] == "HorizontalPodAutoscaler":
            yield spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"], "name"
            for metric in spec.get("metrics", ()):
                if "object" in metric:
                    yield metric["object"]["describedObject"]["kind"], metric["object"]["describedObject"], "name"
        if each["kind"] not in ("Deployment", "Job"):
            continue
        pod = spec["template"]["spec"]
        if "serviceAccountName" in pod:
            yield "ServiceAccount", pod, "serviceAccountName"
        for volume in pod.get("volumes", ()):
            if "configMap" in volume:
                yield "ConfigMap", volume["configMap"], "name"
            if "persistentVolumeClaim" in volume:
                yield "PersistentVolumeClaim", volume["persistentVolumeClaim"], "claimName"
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            for source in container.get("envFrom", ()):
                if "configMapRef" in source:
                    yield "ConfigMap", source["configMapRef"], "name"


def _label(objects: list[Manifest], rule: Mapping[str, Any]) -> None:
    if rule.keys() - {"pairs", "includeSelectors", "includeTemplates"}:
        raise KustomizeError(f"labels: {', '.join(rule)}: not known here")
    pairs, selects = rule["pairs"], rule.get("includeSelectors", False)
    for each in objects:
        each["metadata"].setdefault("labels", {}).update(pairs)
        spec = each.get("spec") or {}
        if "template" in spec and (selects or rule.get("includeTemplates")):
            spec["template"].setdefault("metadata", {}).setdefault("labels", {}).update(pairs)
        if not selects:
            continue
        if each["kind"] == "Service":
            spec["selector"].update(pairs)
        if each["kind"] in ("Deployment", "PodDisruptionBudget"):
            spec["selector"].setdefault("matchLabels", {}).update(pairs)
        selectors = []  # those that are filled, but not made
        if each["kind"] == "NetworkPolicy":
            peers = [peer for rules in spec.get("ingress", ()) for peer in rules.get("from", ())]
            peers += [peer for rules in spec.get("egress", ()) for peer in rules.get("to", ())]
            selectors = [spec["podSelector"], *(peer.get("podSelector", {}) for peer in peers)]
        pod = (spec.get("template") or {}).get("spec", {})
        selectors += [one["labelSelector"] for one in pod.get("topologySpreadConstraints", ())]
        for selector in selectors:
            selector.get("matchLabels", {}).update(pairs)


def _set_image(objects: list[Manifest], image: Mapping[str, str]) -> None:
    if image.keys() - {"name", "newName", "newTag"}:
        raise KustomizeError(f"images: {', '.join(image)}: not known here")
    for each in objects:
        pod = ((each.get("spec") or {}).get("template") or {}).get("spec", {})
        for container in [*pod.get("initContainers", ()), *pod.get("containers", ())]:
            name, _, tag = container["image"].partition(":")
            if name == image["name"]:
                container["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"


def _hash(config_map: Manifest) -> str:
    """As kustomize's ``api/hasher``: of the JSON that Go writes, without letters that could form words."""
    content = {"data": config_map["data"], "kind": "ConfigMap", "name": ""}  # so kustomize has it
    encoded = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for letter in "<>&":
        encoded = encoded.replace(letter, f"\\u{ord(letter):04x}")
    return hashlib.sha256(encoded.encode()).hexdigest()[:10].translate(_HASH_LETTERS)
