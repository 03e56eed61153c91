"""What gets installed: the wheel, the extras, the lock file."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;]+)(?: ; (?P<marker>[^\\]+))? \\$", re.MULTILINE)


def pins() -> dict[str, str]:
    """Name and version of every line of the lock file that applies here."""
    found = {}
    for match in PIN.finditer((REPOSITORY / "requirements.lock").read_text(encoding="utf-8")):
        requirement = Requirement(f"{match['name']}; {match['marker']}" if match["marker"] else match["name"])
        if requirement.marker is None or requirement.marker.evaluate():
            found[canonicalize_name(match["name"])] = match["version"]
    return found


def requirements(name: str, extras: frozenset[str] = frozenset()) -> list[Requirement]:
    """What an installed distribution asks for here, with these extras."""
    asked = [Requirement(text) for text in distribution(name).requires or []]
    return [
        each
        for each in asked
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras | {""})
    ]


def closure(extras: frozenset[str]) -> set[str]:
    """Every distribution that ``pip install malgil[extras]`` brings."""
    found: set[str] = set()
    waiting = [("malgil", extras)]
    seen = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        found.add(name)
        for each in requirements(name, wanted):
            try:
                distribution(each.name)
            except PackageNotFoundError:
                found.add(canonicalize_name(each.name))  # ``tensorflow``, which ``tensorflow-cpu`` stands for here
            else:
                waiting.append((canonicalize_name(each.name), frozenset(each.extras)))
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (path,) = folder.glob("malgil-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()

    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"model_export", "service"}
    assert not [name for name in names if "__pycache__" in name]


def test_the_wheel_holds_every_source_and_data_file(wheel: zipfile.ZipFile) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "model_export", "service"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()

    assert "model_export/configs/transformer-base.yaml" in tracked
    assert "service/py.typed" in tracked
    assert {name for name in tracked if (REPOSITORY / name).is_file()} <= set(wheel.namelist())


def test_the_console_scripts(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
    lines = wheel.read(name).decode().splitlines()

    assert "malgil = service.cli:main" in lines
    assert "malgil-export = model_export.cli:main" in lines


def test_a_gateway_installs_without_tensorflow() -> None:
    base, embedded, export = (closure(frozenset(extras)) for extras in ((), ("embedded",), ("export",)))

    assert {"fastapi", "sentencepiece", "uvicorn"} <= base
    assert not {name for name in base if "tensorflow" in name or name == "keras"}
    assert {"tensorflow", "tensorflow-text"} <= embedded
    assert not {"sacrebleu", "safetensors", "tensorflow-serving-api"} & embedded
    assert {"tensorflow", "tensorflow-text", "keras", "sacrebleu", "safetensors", "pyyaml"} <= export
    assert not {"pytest", "ruff", "mypy"} & export


def test_a_gateway_runs_with_its_base_dependencies_alone() -> None:
    """Everything that is installed beyond them is hidden."""
    base = closure(frozenset())
    hidden = sorted(
        module
        for module, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & base and module.isidentifier()
    )
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({hidden!r}))\n"  # None: the import fails
        "sys.argv = ['malgil', 'serve', '--backend', 'scripted', '--print-settings']\n"
        "import service.bootstrap, service.client, service.transport.rest\n"
        "from service.cli import main\n"
        "main()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )

    assert {"tensorflow", "keras", "sacrebleu", "pytest"} <= set(hidden)
    assert ran.returncode == 0, ran.stderr
    assert "MALGIL_BACKEND=scripted" in ran.stdout


def test_the_lock_file_satisfies_every_requirement() -> None:
    """A change of the dependencies in pyproject.toml needs ``make lock``."""
    locked = pins()
    wrong = []
    for name in closure(frozenset({"dev"})) - {"tensorflow"}:
        for each in requirements(name, frozenset({"dev"}) if name == "malgil" else frozenset()):
            other = canonicalize_name(each.name)
            if other == "tensorflow":
                other = other if other in locked else "tensorflow-cpu"
            if other != "malgil" and not each.specifier.contains(locked.get(other, "0"), prereleases=True):
                wrong.append(f"{name} needs {each}, locked is {locked.get(other)}")

    assert wrong == []


def test_the_installed_versions_are_the_locked_ones() -> None:
    locked = pins()
    installed = {name: distribution(name).version for name in locked}

    assert len(locked) > 50
    assert installed == locked


def test_the_lock_file_has_hashes_and_no_address() -> None:
    text = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text)

    assert "://" not in text
    assert all("--hash=sha256:" in entry for entry in entries if not entry.startswith("#"))


def test_one_build_of_tensorflow_is_locked() -> None:
    small = sysconfig.get_platform() == "linux-x86_64"

    assert {"tensorflow", "tensorflow-cpu"} & pins().keys() == {"tensorflow-cpu" if small else "tensorflow"}
