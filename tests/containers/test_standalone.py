"""``docker compose up standalone``."""

from __future__ import annotations

import httpx
import pytest

from tests.support.composed import PORTS, Composed, docker

pytestmark = pytest.mark.timeout(1200)


def test_one_container_serves_what_was_exported(compose: Composed) -> None:
    compose("up", "--detach", "--no-build", "standalone")
    compose.wait_until_healthy("standalone")
    body = {"inputs": "I am tired.", "model": "en-fr", "version": "stable"}

    answer = httpx.post(f"http://127.0.0.1:{PORTS['STANDALONE_PORT']}/v1/generate", json=body, timeout=60.0)
    tried = docker("exec", compose.name("standalone"), "/bin/sh", "-c", "id -u; touch /x /models/x", check=False)
    loaded = docker("exec", compose.name("standalone"), "cat", "/proc/1/maps")
    compose("stop", "standalone")

    assert answer.json()["outputs"][0]["generated_text"] == "Je suis fatigué."
    assert "65532" in tried.splitlines()
    assert tried.count("Read-only file system") == 2
    assert "libtbbmalloc_proxy" in loaded
    assert compose.container("standalone")["State"]["ExitCode"] == 0
