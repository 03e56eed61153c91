"""Labels in a file, and in a ConfigMap through a ``kubectl`` that holds one object in a file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from service.engine.labels import LabelsError, parse_labels
from service.rollout.steps import RolloutError
from service.rollout.stores import ConfigMap, YamlFile

LABELS = {"en-fr": {"stable": {3: 1}, "default": {3: 90, 4: 10}, "_a": {5: 0, 6: 1.5}}, "2024": {"yes": {7: 1}}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.yaml"
    path.write_text("# Of the translators.\n# Ask them.\nen-fr: {stable: {3: 5}}\n# gone\n")
    return path


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of ``object.json``, ``calls`` and the command."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kubectl").write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        "here = pathlib.Path(__file__).parent\n"
        "with open(here / 'calls', 'a') as calls: print(*sys.argv[1:], file=calls)\n"
        "there = json.loads((here / 'object.json').read_text())\n"
        "if 'get' in sys.argv:\n"
        "    if there['metadata']['name'] not in sys.argv: sys.exit('Error from server (NotFound): none')\n"
        "    print(json.dumps(there))\n"
        "else:\n"
        "    new = json.load(sys.stdin)\n"
        "    version = int(there['metadata']['resourceVersion'])\n"
        "    if int(new['metadata']['resourceVersion']) != version: sys.exit('the object has been modified')\n"
        "    new['metadata']['resourceVersion'] = str(version + 1)\n"
        "    (here / 'object.json').write_text(json.dumps(new))\n"
    )
    (folder / "kubectl").chmod(0o755)
    metadata = {"name": "malgil-labels", "resourceVersion": "7", "labels": {"a": "b"}}
    data = {"labels.yaml": "# Ours.\nen-fr: {stable: 3}\n", "other": "kept"}
    (folder / "object.json").write_text(json.dumps({"kind": "ConfigMap", "metadata": metadata, "data": data}))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def stored(kubectl: Path) -> dict:
    return json.loads((kubectl / "object.json").read_text())


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_keeps_its_first_comment_and_its_mode(file: Path) -> None:
    file.chmod(0o640)
    store = YamlFile(file)
    assert store.read() == {"en-fr": {"stable": {3: 5}}}
    store.write(LABELS)

    assert file.read_text().startswith(
        "# Of the translators.\n# Ask them.\nen-fr:\n  stable: 3\n  default: {3: 90, 4: 10}\n"
    )
    assert "gone" not in file.read_text()
    assert parse_labels(file.read_text()) == LABELS
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["labels.yaml"]


def test_a_file_is_replaced_at_once_and_behind_a_link(file: Path) -> None:
    link = file.with_name("link.yaml")
    link.symlink_to(file.name)
    before = file.stat().st_ino
    store = YamlFile(link)
    store.read()
    store.write(LABELS)

    assert link.is_symlink()
    assert file.stat().st_ino != before


def test_labels_for_canary_gateways_are_written_along(file: Path) -> None:
    beside = file.with_name("labels-canary.yaml")
    beside.write_text("# Along.\n{}\n")
    store = YamlFile(file)
    store.read()
    store.write({"en-fr": {"canary": {4: 1}, "default": {3: 1}}})

    assert beside.read_text().startswith("# Along.\n")
    assert parse_labels(beside.read_text()) == {"en-fr": {"canary": {4: 1}, "default": {4: 1}}}


def test_what_others_wrote_meanwhile_stays(file: Path) -> None:
    store = YamlFile(file)
    store.read()
    file.write_text("{}\n")

    with pytest.raises(RolloutError, match=r"labels\.yaml was changed by others meanwhile"):
        store.write(LABELS)
    assert file.read_text() == "{}\n"


def test_a_file_that_makes_no_sense_or_is_not_there(file: Path) -> None:
    file.write_text("en-fr: {stable: 0}\n")
    with pytest.raises(LabelsError, match=r"labels\.yaml: en-fr: stable: 0 must be the number"):
        YamlFile(file).read()
    with pytest.raises(FileNotFoundError):
        YamlFile(file.with_name("other.yaml")).read()


# --- ConfigMaps -------------------------------------------------------------------------------------------------------


def test_a_config_map_is_replaced_with_all_else_that_is_in_it(kubectl: Path) -> None:
    store = ConfigMap("malgil-labels", "malgil", "east")
    assert store.read() == {"en-fr": {"stable": {3: 1}}}
    store.write(LABELS)

    data = stored(kubectl)["data"]
    assert data["labels.yaml"].startswith("# Ours.\n")
    assert parse_labels(data["labels.yaml"]) == LABELS
    assert data.keys() == {"labels.yaml", "other"}
    assert stored(kubectl)["metadata"] == {"name": "malgil-labels", "resourceVersion": "8", "labels": {"a": "b"}}
    assert (kubectl / "calls").read_text().splitlines() == [
        "--namespace=malgil --context=east get configmap malgil-labels --output=json",
        "--namespace=malgil --context=east replace --filename=-",
    ]


def test_labels_for_canary_gateways_are_in_the_same_config_map(kubectl: Path) -> None:
    there = stored(kubectl)
    there["data"]["labels-canary.yaml"] = "{}"
    (kubectl / "object.json").write_text(json.dumps(there))
    store = ConfigMap("malgil-labels")
    store.read()
    store.write({"en-fr": {"canary": {4: 1}, "default": {3: 1}}})

    assert parse_labels(stored(kubectl)["data"]["labels-canary.yaml"])["en-fr"]["default"] == {4: 1}


def test_a_config_map_that_others_changed_stays(kubectl: Path) -> None:
    one, other = ConfigMap("malgil-labels"), ConfigMap("malgil-labels")
    one.read()
    other.read()
    other.write(LABELS)

    with pytest.raises(RolloutError, match="kubectl: the object has been modified"):
        one.write({})
    assert parse_labels(stored(kubectl)["data"]["labels.yaml"]) == LABELS


def test_no_config_map_no_key_and_no_kubectl(kubectl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RolloutError, match=r"kubectl: Error from server \(NotFound\): none"):
        ConfigMap("labels").read()
    (kubectl / "object.json").write_text(json.dumps({"metadata": {"name": "labels"}}))
    with pytest.raises(RolloutError, match=r"ConfigMap labels has no key labels\.yaml"):
        ConfigMap("labels").read()
    monkeypatch.setenv("PATH", str(kubectl.parent))
    with pytest.raises(RolloutError, match="there is none on the PATH"):
        ConfigMap("labels").read()
