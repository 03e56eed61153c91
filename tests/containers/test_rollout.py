"""A version is published, tried, made stable, taken back and removed, and requests are answered all the while."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.composed import BODIES, GATEWAY, Composed, ask, states
from tests.support.dockerfiles import REPOSITORY
from tests.support.load import Load, wait_until
from tests.support.pages import removal_command

pytestmark = pytest.mark.timeout(1200)


def malgil_rollout(compose: Composed, step: str, *words: str, check: bool = True) -> str:
    """What ``malgil rollout`` of this machine says of the gateway and the file of labels that is mounted there."""
    given = ["--labels", str(compose.labels_file), "--url", GATEWAY]
    command = [str(Path(sys.executable).with_name("malgil")), "rollout", step, "en-fr", *words, *given]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=240)
    assert (ran.returncode == 0) is check, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_a_version_is_published_tried_made_stable_taken_back_and_removed(compose: Composed) -> None:
    """By ``malgil rollout``, from the labels that compose begins with; no request fails meanwhile."""
    publish = "cp -r /models/en-fr/1 /models/en-fr/.2 && mv /models/en-fr/.2 /models/en-fr/2"
    unnamed, tried = {"inputs": "Be nice.", "model": "en-fr"}, {**BODIES[0], "version": "canary"}

    def answering() -> list[int]:
        return [ask(body)["model_version"] for body in (BODIES[0], unnamed, tried)]

    malgil_rollout(compose, "promote", "1")
    with Load(GATEWAY, [*BODIES, unnamed, tried], clients=1) as load:
        assert "version 2" in malgil_rollout(compose, "promote", "2", "--to", "canary", check=False), (
            "there is none yet"
        )
        compose("run", "--rm", "--no-deps", "--entrypoint", "/bin/sh", "export", "-c", publish)
        wait_until(lambda: states("en-fr").get(2) == "ready", "version 2 is certified and warm")
        assert answering() == [1, 1, 1], "labels stay where they are"
        malgil_rollout(compose, "promote", "2", "--to", "canary")
        assert answering() == [1, 1, 2]
        assert "in force at 1 gateway" in malgil_rollout(compose, "promote")
        assert answering() == [2, 2, 2]
        assert "previous: 1" in malgil_rollout(compose, "status")
        malgil_rollout(compose, "rollback")
        assert answering() == [1, 1, 1]
        assert "may be removed: 2" in malgil_rollout(compose, "status")
        compose.typed(removal_command().replace("3", "2"))
        wait_until(lambda: states("en-fr") == {1: "ready"}, "version 2 is gone")
        assert answering() == [1, 1, 1]

    assert {each.status for each in load.exchanges} == {200}
    of_label = [each.answer["model_version"] for each in load.exchanges if each.body is BODIES[0]]
    assert {1, 2} == set(of_label)
