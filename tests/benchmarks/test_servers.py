from __future__ import annotations

import os
from pathlib import Path
from urllib.request import urlopen

import pytest

from benchmarks.servers import REPOSITORY, ServerFailed, cpu_s, peak_bytes, started

HTTP_SERVER = ("http.server", "0", "--bind", "127.0.0.1")  # says "... (http://127.0.0.1:PORT/) ..."


def test_a_server_runs_on_its_cores_until_left(tmp_path: Path) -> None:
    core, own = min(os.sched_getaffinity(0)), os.sched_getaffinity(0)
    log = tmp_path / "log"

    with started(*HTTP_SERVER, cores={core}, log=log, PYTHONUNBUFFERED="1") as server:
        assert os.sched_getaffinity(server.pid) == {core}
        assert os.sched_getaffinity(0) == own
        before = cpu_s(server.pid)
        with urlopen(f"http://127.0.0.1:{server.port}/pyproject.toml", timeout=30) as answer:
            assert answer.read() == (REPOSITORY / "pyproject.toml").read_bytes()
        assert cpu_s(server.pid) > before > 0.0
        assert 1e6 < peak_bytes(server.pid) < 1e9

    assert "GET /pyproject.toml" in log.read_text()
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://127.0.0.1:{server.port}/", timeout=30)


def test_a_server_that_ends_says_why() -> None:
    with pytest.raises(ServerFailed, match="No module named benchmarks"), started("benchmarks.none", cores={0}):
        pass
