"""``docker compose up``: the README's requests, a rollout, an outage, and what containers may not do."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.composed import PORTS, PROJECT, SERVICES, Composed, docker
from tests.support.dockerfiles import REPOSITORY
from tests.support.load import Load, wait_until

pytestmark = pytest.mark.timeout(1200)

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
ADDRESS = f"http://127.0.0.1:{PORTS['GATEWAY_PORT']}"
DEADLINE_S = 100.0
"""While TF Serving comes and goes: the stand-in is cold then, and its first calls take 8 s on two idle cores."""
BODIES = [
    {"inputs": ["I am tired.", "Be nice."], "model": "en-fr", "version": "stable"},
    {"inputs": "안녕하세요", "model": "korean-chat"},
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def ask(body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{ADDRESS}/v1/generate", json=body, timeout=60.0)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def states(model: str) -> dict[int, str]:
    told = httpx.get(f"{ADDRESS}/v1/models/{model}", timeout=10.0).json()
    return {version["version"]: version["state"] for version in told["versions"]}


def test_the_requests_of_the_readme_are_answered_over_rest(compose: Composed) -> None:
    (command,) = [
        line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl") and "en-fr" in line
    ]
    words = shlex.split(command)
    (shown,) = [json.loads(block) for block in blocks("json")]

    answer = ask(json.loads(words[words.index("--data") + 1]))

    assert answer["outputs"][0]["generated_text"] == shown["outputs"][0]["generated_text"]
    assert (answer["model_name"], answer["model_version"]) == ("en-fr", 1)


def test_the_requests_of_the_readme_are_answered_over_grpc(compose: Composed) -> None:
    (code,) = blocks("python")
    code = code.replace("127.0.0.1:9000", f"127.0.0.1:{PORTS['GATEWAY_GRPC_PORT']}")

    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    (shown,) = [json.loads(block) for block in blocks("json")]
    assert ran.stdout == shown["outputs"][0]["generated_text"] + "\n"


def test_every_shipped_model_answers(compose: Composed) -> None:
    for model in SERVICES["export"]["command"]:
        assert ask({"inputs": "hello", "model": model})["outputs"][0]["generated_text"]


@pytest.mark.parametrize("service", ["gateway", "tf-serving"])
def test_containers_are_confined(compose: Composed, service: str) -> None:
    host = compose.container(service)["HostConfig"]
    status = docker("exec", compose.name(service), "cat", "/proc/1/status")
    tried = docker(
        "exec", compose.name(service), "/bin/sh", "-c", "id -u; touch /usr/bin/x; touch /models/x /etc/x", check=False
    )

    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] is None
    assert not host["Privileged"]
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] > 0
    for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert re.search(rf"^Cap{kind}:\s+0+$", status, re.MULTILINE), status
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert "65532" in tried.splitlines()
    assert "touch: cannot touch '/usr/bin/x': Read-only file system" in tried
    assert "cannot touch '/etc/x': Read-only file system" in tried


def test_only_the_gateway_reaches_tf_serving(compose: Composed) -> None:
    address = compose.container("tf-serving")["NetworkSettings"]["Networks"]
    assert address.keys() == {f"{PROJECT}_models"}
    (where,) = [network["IPAddress"] for network in address.values()]
    code = f"import socket; socket.create_connection(('{where}', 8500), 2)"

    def reach(*container: str) -> str:
        return docker(*container, "python", "-c", code, check=False)

    assert reach("exec", compose.name("gateway")) == ""
    stranger = reach("run", "--rm", "--network", f"{PROJECT}_default", "--entrypoint", "", SERVICES["gateway"]["image"])
    assert "Error" in stranger


def test_tf_serving_runs_with_its_flags(compose: Composed) -> None:
    command = docker("exec", compose.name("tf-serving"), "/bin/sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    flags = (REPOSITORY / "docker" / "tf-serving.flags").read_text().splitlines()

    assert [flag for flag in flags if flag not in command.split()] == []


def malgil_rollout(compose: Composed, step: str, *words: str, check: bool = True) -> str:
    """What ``malgil rollout`` of this machine says of the gateway and the file of labels that is mounted there."""
    given = ["--labels", str(compose.labels_file), "--url", ADDRESS]
    command = [str(Path(sys.executable).with_name("malgil")), "rollout", step, "en-fr", *words, *given]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=240)
    assert (ran.returncode == 0) is check, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_a_version_is_published_tried_made_stable_and_taken_back(compose: Composed) -> None:
    """By ``malgil rollout``, from the labels that compose begins with; no request fails meanwhile."""
    publish = "cp -r /models/en-fr/1 /models/en-fr/.2 && mv /models/en-fr/.2 /models/en-fr/2"
    unnamed, tried = {"inputs": "Be nice.", "model": "en-fr"}, {**BODIES[0], "version": "canary"}

    def answering() -> list[int]:
        return [ask(body)["model_version"] for body in (BODIES[0], unnamed, tried)]

    malgil_rollout(compose, "promote", "1")
    with Load(ADDRESS, [*BODIES, unnamed, tried], clients=1) as load:
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

    assert {each.status for each in load.exchanges} == {200}
    of_label = [each.answer["model_version"] for each in load.exchanges if each.body is BODIES[0]]
    assert {1, 2} == set(of_label)


def test_calls_that_the_network_swallows_are_given_up_long_before_their_deadlines(compose: Composed) -> None:
    network, container = f"{PROJECT}_models", compose.name("tf-serving")
    with Load(ADDRESS, BODIES, clients=4, deadline_s=DEADLINE_S) as load:
        wait_until(lambda: len(load.exchanges) >= 8, "it answers")
        docker("network", "disconnect", network, container)
        cut = time.monotonic()
        try:
            wait_until(lambda: any(each.status == 503 for each in load.exchanges), "the outage is told")
        finally:
            docker("network", "connect", "--alias", "tf-serving", network, container)
        wait_until(lambda: load.exchanges[-1].status == 200, "it answers again")

    swallowed = [each for each in load.exchanges if each.began < cut < each.ended]
    assert swallowed
    assert max(each.ended for each in swallowed) - cut < DEADLINE_S / 3
    assert {each.status for each in load.exchanges} == {200, 503}


def test_tf_serving_is_killed_and_comes_back(compose: Composed) -> None:
    started = compose.container("tf-serving")["State"]["StartedAt"]
    with Load(ADDRESS, BODIES, clients=2, deadline_s=DEADLINE_S) as load:
        time.sleep(1.0)
        killed = time.monotonic()
        docker("exec", compose.name("tf-serving"), "/bin/bash", "-c", "kill -KILL -1", check=False)
        wait_until(lambda: compose.container("tf-serving")["State"]["StartedAt"] != started, "it is started again")
        wait_until(lambda: any(each.status == 503 for each in load.exchanges), "the outage is told")
        outage = time.monotonic()
        wait_until(
            lambda: [each.status for each in load.exchanges[-8:] if each.began > outage] == [200] * 8,
            "it answers again",
        )
        back = time.monotonic()

    assert {each.status for each in load.exchanges if each.ended < killed} == {200}
    assert all(each.ended - killed < DEADLINE_S / 3 for each in load.exchanges if each.began < killed)
    assert {each.status for each in load.exchanges} == {200, 503}
    refused = [each for each in load.exchanges if each.status == 503]
    assert {each.answer["error_type"] for each in refused} == {"unavailable"}
    assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
    assert {each.status for each in load.exchanges if each.began > back} <= {200}
    assert compose.container("tf-serving")["RestartCount"] == 1
    assert compose.container("gateway")["RestartCount"] == 0
    compose.wait_until_healthy("tf-serving")
