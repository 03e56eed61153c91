"""The images themselves."""

from __future__ import annotations

import json

import pytest

from tests.support.composed import SERVICES, Composed, docker
from tests.support.dockerfiles import read_stages

pytestmark = pytest.mark.timeout(1200)

MOST_ADDED_BYTES = 150_000_000


def size(image: str) -> int:
    return int(json.loads(docker("image", "inspect", image))[0]["Size"])


def test_the_gateway_adds_little_to_its_base(images: Composed) -> None:
    assert size(SERVICES["gateway"]["image"]) - size(read_stages("gateway")[-1].base) < MOST_ADDED_BYTES


def test_the_gateway_has_no_tensorflow(images: Composed) -> None:
    found = docker("run", "--rm", "--entrypoint", "python", SERVICES["gateway"]["image"], "-m", "pip", "list").lower()

    assert "malgil" in found
    assert "grpcio" in found
    assert "tensorflow" not in found
    assert "keras" not in found


@pytest.mark.parametrize("service", ["export", "gateway", "standalone"])
def test_commands_run_where_nothing_may_be_written(images: Composed, service: str) -> None:
    confined = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none")
    said = docker("run", "--rm", *confined, SERVICES[service]["image"], "--help")

    assert "Usage: malgil" in said


def test_what_images_share_is_stored_once(images: Composed) -> None:
    layers = {
        name: json.loads(docker("image", "inspect", SERVICES[name]["image"]))[0]["RootFS"]["Layers"]
        for name in ("export", "gateway", "standalone")
    }
    base = len(json.loads(docker("image", "inspect", read_stages("gateway")[-1].base))[0]["RootFS"]["Layers"])

    assert set(layers["standalone"][: base + 3]) <= set(layers["export"]) | set(layers["gateway"])
    assert layers["standalone"][base] == layers["export"][base], "TensorFlow"
