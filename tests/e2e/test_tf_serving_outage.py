"""TF Serving goes away under load and comes back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.load import Load
from tests.support.model_server_process import QUICK, ModelServerProcess, model_server
from tests.support.server_process import server_process
from tests.support.tiny_models import CORPUS

MODEL = "tiny-rnn"
BODIES = [{"inputs": text, "model": MODEL} for text in CORPUS]
SETTINGS = {"MALGIL_BACKEND": "tf-serving", "MALGIL_TF_SERVING_MODELS": MODEL}
OUTAGE_S = 5.0
RECOVERY_S = 3.0


@pytest.fixture(scope="module")
def root(artifact_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one model."""
    root = tmp_path_factory.mktemp("one")
    shutil.copytree(artifact_root / MODEL, root / MODEL)
    return root


@pytest.fixture
def replica(root: Path) -> Iterator[ModelServerProcess]:
    with model_server(root, *QUICK) as server:
        yield server


@pytest.fixture
def other_replica(root: Path) -> Iterator[ModelServerProcess]:
    with model_server(root, *QUICK) as server:
        yield server


def test_an_outage_gives_clean_errors_and_ends_by_itself(replica: ModelServerProcess) -> None:
    with (
        server_process("--tf-serving-addresses", replica.address, **SETTINGS) as server,
        Load(server.address(), BODIES) as load,
    ):
        time.sleep(1.0)
        killed = time.monotonic()
        replica.kill()
        time.sleep(OUTAGE_S)
        replica.restart()  # returns once it listens
        back = time.monotonic()
        time.sleep(RECOVERY_S + 2.0)

    before = [each for each in load.exchanges if each.ended < killed]
    during = [each for each in load.exchanges if each.ended >= killed and each.began <= back + RECOVERY_S]
    after = [each for each in load.exchanges if each.began > back + RECOVERY_S]
    assert {each.status for each in before} == {200}
    assert {each.status for each in during} <= {200, 503}
    refused = [each for each in during if each.status == 503]
    assert refused, "an outage is told, not hidden until the deadline"
    assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
    assert {each.answer["error_type"] for each in refused} == {"unavailable"}
    assert after
    assert [(each.status, each.answer) for each in after if each.status != 200] == []


def test_of_two_replicas_one_may_die(replica: ModelServerProcess, other_replica: ModelServerProcess) -> None:
    addresses = f"{replica.address},{other_replica.address}"
    with server_process("--tf-serving-addresses", addresses, **SETTINGS) as server:
        with Load(server.address(), BODIES) as load:
            time.sleep(2.0)
            replica.kill()
            time.sleep(3.0)
        assert [(each.status, each.answer) for each in load.exchanges if each.status != 200] == []
        assert len(load.exchanges) > 100
        assert len(other_replica.take_calls()) > 10
