"""The containers of docker-compose.yml, for tests: its own project, its own ports, the real file."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from model_export.contract import CpuFeatures, unsupported_here
from tests.support.dockerfiles import REPOSITORY

PROJECT = "malgil-test"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))[
    "services"
]
PORTS = {
    "GATEWAY_PORT": 18000,
    "GATEWAY_GRPC_PORT": 19000,
    "STANDALONE_PORT": 18001,
    "STANDALONE_GRPC_PORT": 19001,
    "PROMETHEUS_PORT": 19090,
}
GATEWAY = f"http://127.0.0.1:{PORTS['GATEWAY_PORT']}"
BODIES = [
    {"inputs": ["I am tired.", "Be nice."], "model": "en-fr", "version": "stable"},
    {"inputs": "안녕하세요", "model": "korean-chat"},
]
INT8_FEATURES = CpuFeatures(("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"))


def docker(*words: str, check: bool = True, timeout_s: float = 900.0) -> str:
    """What a command of docker says; a failure is told with all of it."""
    return _run(["docker", *words], dict(os.environ), check, timeout_s)


class Composed:
    """The project, as ``docker compose`` sees it.

    Args:
        labels: the folder in which gateways find ``labels.yaml``.
    """

    def __init__(self, labels: Path) -> None:
        self.labels = labels
        dtype = "float32" if unsupported_here("int8", INT8_FEATURES) else "int8"
        self._environment = (
            dict(os.environ)
            | {name: str(port) for name, port in PORTS.items()}
            | {
                "COMPOSE_PROJECT_NAME": PROJECT,
                "LABELS_FOLDER": str(labels),
                "MALGIL_DTYPE": dtype,
                "COMPOSE_ANSI": "never",
                "COMPOSE_PROGRESS": "plain",
            }
        )

    def __call__(self, *words: str, check: bool = True, timeout_s: float = 900.0) -> str:
        """What ``docker compose ...`` says."""
        return _run(["docker", "compose", *words], self._environment, check, timeout_s)

    def typed(self, command: str) -> str:
        """What a command of the pages says, typed into a shell as it stands there."""
        return _run(["sh", "-c", command], self._environment, check=True, timeout_s=900.0)

    @property
    def labels_file(self) -> Path:
        """That which gateways read."""
        return self.labels / "labels.yaml"

    def container(self, service: str) -> dict[str, Any]:
        """What the engine knows of the container of a service."""
        found: dict[str, Any] = json.loads(docker("inspect", self.name(service)))[0]
        return found

    def name(self, service: str) -> str:
        return f"{PROJECT}-{service}-1"

    def address(self, service: str) -> str:
        """Its own, past the proxy that accepts connections on behalf of the published port."""
        ip = self.container(service)["NetworkSettings"]["Networks"][f"{PROJECT}_default"]["IPAddress"]
        return f"http://{ip}:8000"

    def wait_until_healthy(self, service: str, timeout_s: float = 300.0) -> None:
        end = time.monotonic() + timeout_s
        while (state := self.container(service)["State"])["Health"]["Status"] != "healthy":
            assert time.monotonic() < end, f"{service}: {json.dumps(state, indent=1)}\n{self('logs', service)}"
            time.sleep(0.5)


def ask(body: Any) -> dict[str, Any]:
    """The gateway's answer to a request that must be answered."""
    answer = httpx.post(f"{GATEWAY}/v1/generate", json=body, timeout=60.0)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def states(model: str) -> dict[int, str]:
    """The state of each version that the gateway knows of."""
    told = httpx.get(f"{GATEWAY}/v1/models/{model}", timeout=10.0).json()
    return {version["version"]: version["state"] for version in told["versions"]}


def _run(words: list[str], environment: dict[str, str], check: bool, timeout_s: float) -> str:
    ran = subprocess.run(
        words,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    if check and ran.returncode:
        raise AssertionError(f"{' '.join(words)} ended with {ran.returncode}:\n{ran.stdout}")
    return ran.stdout
