"""What can be said of the images without building them; tests/containers builds and runs them."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.dockerfiles import OURS, REPOSITORY, Stage, read_stages

DOCKER = REPOSITORY / "docker"
PACKAGES = DOCKER / "packages"
IMAGES = {name: read_stages(name) for name in OURS}
BASE = "python:3.11-slim-bookworm"


def listed(*names: str) -> set[str]:
    return {line for name in names for line in (PACKAGES / f"{name}.txt").read_text(encoding="utf-8").split()}


def needed(name: str, *extras: str) -> set[str]:
    """Every distribution that ``pip install NAME[EXTRAS]`` brings, but for itself."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(name, frozenset(extras))]
    while waiting:
        if (package := waiting.pop()) in seen:
            continue
        seen.add(package)
        asked, wanted = package
        found.add(asked)
        try:
            requirements = distribution(asked).requires
        except PackageNotFoundError:  # one of the two builds of TensorFlow
            found.add("tensorflow-cpu")
            requirements = distribution("tensorflow-cpu").requires
        for requirement in map(Requirement, requirements or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in wanted | {""}):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found - {name}


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the images have Python 3.11")
def test_images_hold_the_packages_that_they_need_and_no_others() -> None:
    """After a change of the dependencies these lists change too: one name a line, sorted."""
    builds_of_tensorflow = {"tensorflow", "tensorflow-cpu"}  # the lock file says where which one

    assert listed("gateway") == needed("malgil")
    assert listed("gateway", "tensorflow") | builds_of_tensorflow == needed("malgil", "embedded") | builds_of_tensorflow
    assert listed("gateway", "tensorflow", "exporter") == needed("malgil", "export") | builds_of_tensorflow
    assert listed("build") == needed("hatchling") | {"hatchling"}
    assert not {name for name in listed("gateway") if "tensorflow" in name}


@pytest.mark.parametrize("path", sorted(PACKAGES.iterdir()), ids=lambda path: path.stem)
def test_packages_are_installed_as_they_are_locked(path: Path) -> None:
    names = path.read_text(encoding="utf-8").split()
    ran = subprocess.run(
        [sys.executable, DOCKER / "locked.py", REPOSITORY / "requirements.lock", path],
        capture_output=True,
        text=True,
        check=True,
    )
    entries = [entry for entry in re.split(r"\n(?=\S)", ran.stdout) if entry]
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")

    assert names == sorted(set(names))
    assert [re.match(r"[\w.-]+", entry)[0] for entry in entries] == [
        name for name in names for _ in re.findall(rf"^{re.escape(name)}==", lock, re.MULTILINE)
    ]
    assert all(entry.rstrip() in lock and "--hash=sha256:" in entry for entry in entries)


def test_a_package_that_is_not_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("idna\nno-such-package\n")
    ran = subprocess.run(
        [sys.executable, DOCKER / "locked.py", REPOSITORY / "requirements.lock", tmp_path / "list.txt"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.endswith("does not lock no-such-package\n")


@pytest.mark.parametrize("stages", IMAGES.values(), ids=IMAGES)
def test_every_stage_begins_with_the_same_base(stages: list[Stage]) -> None:
    assert {stage.base for stage in stages} == {BASE}


@pytest.mark.parametrize("stages", IMAGES.values(), ids=IMAGES)
def test_packages_come_from_the_lock_file_in_stages_of_their_own(stages: list[Stage]) -> None:
    *before, image = stages
    installs = [text for stage in before for text in stage.texts("RUN") if "pip install" in text]

    assert installs
    for text in installs:
        assert "--require-hashes" in text or "--prefix=/malgil . " in text
        assert "--no-deps" in text
    assert not [text for text in image.texts("RUN") if "pip" in text]


@pytest.mark.parametrize("stages", IMAGES.values(), ids=IMAGES)
def test_nothing_runs_as_root(stages: list[Stage]) -> None:
    assert stages[-1].texts("USER") == ["65532:65532"]
    assert stages[-1].environment["HOME"] == "/tmp", "the user has no entry in /etc/passwd"


@pytest.mark.parametrize("name", OURS)
def test_labels_say_what_an_image_is(name: str) -> None:
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in IMAGES[name][-1].labels.items()}

    assert labels.pop("description")
    assert labels == {
        "title": f"malgil/{name}",
        "version": version("malgil"),
        "revision": "${REVISION}",
        "licenses": "Apache-2.0",
        "base.name": f"docker.io/library/{BASE}",
    }


@pytest.mark.parametrize("name", ["gateway", "standalone"])
def test_servers_tell_their_health_with_what_the_image_has(name: str) -> None:
    image = IMAGES[name][-1]
    (check,) = image.texts("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])

    assert command[0] == "python"
    assert f"COPY docker/healthcheck.py {command[-1]}" in [f"{each.keyword} {each.text}" for each in image.instructions]
    assert {"--interval", "--timeout", "--start-period", "--retries"} == set(re.findall(r"--[\w-]+", check))
    assert image.environment["MALGIL_HOST"] == "0.0.0.0"
    assert image.texts("ENTRYPOINT") == ['["malgil"]']


def test_stages_that_images_share_are_the_same() -> None:
    """Else they are built, stored and pulled several times."""
    shared = [stage for stages in IMAGES.values() for stage in stages[:-1]]

    assert {stage.name for stage in shared} == {
        "locked",
        "gateway-packages",
        "malgil",
        "tensorflow",
        "exporter-packages",
    }
    assert len(set(shared)) == 5


@pytest.mark.parametrize("stages", IMAGES.values(), ids=IMAGES)
def test_what_is_copied_exists_and_is_let_into_the_context(stages: list[Stage]) -> None:
    rules = [
        line
        for line in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    let_in = [rule[1:] for rule in rules if rule.startswith("!")]
    sources = [
        source
        for stage in stages
        for text in stage.texts("COPY")
        if not text.startswith("--from")
        for source in text.split()[:-1]
        if not source.startswith("--")
    ]

    assert rules[0] == "*"
    assert sources
    assert [source for source in sources if not (REPOSITORY / source).exists()] == []
    assert [
        source for source in sources if not any(fnmatch.fnmatch(source.split("/")[0], rule) for rule in let_in)
    ] == []
    assert not {"tests", "docs", "build", ".git", ".venv"} & set(let_in)


def test_no_address_of_a_registry_is_written_down() -> None:
    assert [
        path.name
        for path in [*DOCKER.glob("*.Dockerfile"), REPOSITORY / "docker-compose.yml"]
        if re.search(r"://(?!127\.0\.0\.1)", path.read_text(encoding="utf-8"))
    ] == []
