"""Images are built and containers run only by ``make test-containers``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.composed import SERVICES, Composed, docker
from tests.support.dockerfiles import REPOSITORY

STAND_INS = {"tf-serving": "tf_serving", "prometheus": "prometheus"}
"""By service, the Dockerfile here."""

if not os.environ.get("TEST_CONTAINERS"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Composed:
    """The images built, and stand-ins under the names of others, which cannot be had everywhere."""
    labels = tmp_path_factory.mktemp("labels")
    labels.chmod(0o755)
    shutil.copy(REPOSITORY / "docker" / "labels" / "labels.yaml", labels)
    compose = Composed(labels)
    compose("--profile", "standalone", "build")
    for service, stand_in in STAND_INS.items():
        docker(
            "build",
            *("--file", f"tests/containers/{stand_in}.Dockerfile"),
            *("--build-arg", f"EXPORTER={SERVICES['export']['image']}"),
            *("--tag", SERVICES[service]["image"]),
            "tests",
        )
    return compose


@pytest.fixture(scope="session")
def compose(images: Composed) -> Iterator[Composed]:
    """``docker compose up``, its models exported and served; nothing is left of it afterwards."""
    images("--profile", "*", "down", "--volumes", "--remove-orphans")
    try:
        images("up", "--detach", "--no-build")
        images.wait_until_healthy("gateway")
        yield images
    finally:
        if log := os.environ.get("CONTAINERS_LOG"):
            Path(log).write_text(images("--profile", "*", "logs", "--timestamps", check=False))
        images("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5")
