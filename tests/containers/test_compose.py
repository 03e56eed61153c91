"""``docker compose up``: the README's requests, outages, and what containers may not do."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time

import pytest

from tests.support.composed import BODIES, GATEWAY, PORTS, PROJECT, SERVICES, Composed, ask, docker
from tests.support.dockerfiles import REPOSITORY
from tests.support.load import Load, wait_until
from tests.support.pages import read_blocks

pytestmark = pytest.mark.timeout(1200)

DEADLINE_S = 100.0
"""While TF Serving comes and goes: the stand-in is cold then, and its first calls take 8 s on two idle cores."""


def test_the_requests_of_the_readme_are_answered_over_rest(compose: Composed) -> None:
    (command,) = [
        line
        for block in read_blocks("README.md", "sh")
        for line in block.splitlines()
        if line.startswith("curl") and "en-fr" in line
    ]
    words = shlex.split(command)
    (shown,) = [json.loads(block) for block in read_blocks("README.md", "json")]

    answer = ask(json.loads(words[words.index("--data") + 1]))

    assert answer["outputs"][0]["generated_text"] == shown["outputs"][0]["generated_text"]
    assert (answer["model_name"], answer["model_version"]) == ("en-fr", 1)


def test_the_requests_of_the_readme_are_answered_over_grpc(compose: Composed) -> None:
    (code,) = read_blocks("README.md", "python")
    code = code.replace("127.0.0.1:9000", f"127.0.0.1:{PORTS['GATEWAY_GRPC_PORT']}")

    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    (shown,) = [json.loads(block) for block in read_blocks("README.md", "json")]
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


def test_calls_that_the_network_swallows_are_given_up_long_before_their_deadlines(compose: Composed) -> None:
    network, container = f"{PROJECT}_models", compose.name("tf-serving")
    with Load(GATEWAY, BODIES, clients=4, deadline_s=DEADLINE_S) as load:
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
    with Load(GATEWAY, BODIES, clients=2, deadline_s=DEADLINE_S) as load:
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
