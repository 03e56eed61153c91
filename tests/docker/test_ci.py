"""``.ci/run`` ends the engine that it has started, and no other, and says whether all went well."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.dockerfiles import REPOSITORY

RUN = REPOSITORY / ".ci" / "run"


class Workplace:
    """A copy of ``.ci/run`` among programs that only note that they were called."""

    def __init__(self, root: Path) -> None:
        self.repository = root / "repository"
        self.noted = root / "noted"
        self.programs = root / "programs"
        (written,) = re.findall(r"^engine=(\S+)$", RUN.read_text(), re.MULTILINE)
        self.engine = (self.repository / written).resolve()
        (self.repository / ".ci").mkdir(parents=True)
        shutil.copy(RUN, self.repository / ".ci")
        self.write(self.programs / "make", "exit 0")
        self.write(self.programs / "docker", "exit 1")

    def write(self, program: Path, does: str) -> None:
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/bash\necho "{program.name} $*" >>{self.noted}\n{does}\n')
        program.chmod(0o755)

    def run(self) -> tuple[int, list[str]]:
        """Its exit status, and what it called."""
        environment = {**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}"}
        ran = subprocess.run(
            [self.repository / ".ci" / "run"], env=environment, check=False, capture_output=True, timeout=60
        )
        calls = self.noted.read_text().splitlines()
        return ran.returncode, [each for each in calls if not each.startswith("docker")]


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


TARGETS = ["make check", "make test", "make test-containers"]


def test_without_an_engine_everything_is_called_all_the_same(workplace: Workplace) -> None:
    assert workplace.run() == (0, TARGETS)


def test_the_engine_that_it_starts_is_ended(workplace: Workplace) -> None:
    workplace.write(workplace.engine, "exit 0")
    status, calls = workplace.run()

    assert status == 0
    assert [each for each in calls if each.startswith("make")] == TARGETS
    assert calls.index("engine up") < calls.index("engine env") < calls.index("make test-containers")
    assert calls[-1] == "engine down"


@pytest.mark.parametrize("target", ["check", "test", "test-containers"])
def test_what_fails_is_told_and_the_engine_is_ended(workplace: Workplace, target: str) -> None:
    """Not while it still starts: it would outlive that."""
    workplace.write(workplace.engine, f'[ "$1" != up ] || {{ sleep 0.5; echo "engine is up" >>{workplace.noted}; }}')
    workplace.write(workplace.programs / "make", f'[ "$1" != {target} ] || exit 7')
    status, calls = workplace.run()

    assert status == 7
    assert "engine is up" in calls
    assert calls[-1] == "engine down"


def test_an_engine_that_cannot_be_ended_hides_nothing(workplace: Workplace) -> None:
    workplace.write(workplace.engine, '[ "$1" != down ] || exit 3')
    workplace.write(workplace.programs / "make", '[ "$1" != test ] || exit 7')
    assert workplace.run()[0] == 7

    workplace.write(workplace.programs / "make", "exit 0")
    assert workplace.run()[0] == 0


def test_an_engine_that_does_not_start_is_no_failure_of_its_own(workplace: Workplace) -> None:
    """``make test-containers`` says then that nothing was tested."""
    workplace.write(workplace.engine, '[ "$1" != up ] || exit 1')
    status, calls = workplace.run()

    assert status == 0
    assert "engine env" not in calls
    assert "make test-containers" in calls


def test_an_engine_that_ran_before_runs_on(workplace: Workplace) -> None:
    workplace.write(workplace.programs / "docker", "exit 0")
    workplace.write(workplace.engine, "exit 0")
    status, calls = workplace.run()

    assert status == 0
    assert "engine env" in calls
    assert "engine down" not in calls
