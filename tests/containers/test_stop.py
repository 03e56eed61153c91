"""``docker compose stop`` under load."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest

from tests.support.composed import Composed
from tests.support.load import Load

pytestmark = pytest.mark.timeout(1200)

CLIENTS = 8
BODIES = [{"inputs": [f"I am tired of {count} cats." for count in range(24)], "model": "en-fr"}]


def test_nothing_that_was_accepted_is_lost(compose: Composed) -> None:
    """What the gateway says it answered is what its clients got, and it gave up nothing that it had begun."""
    compose("up", "--detach", "--no-build")
    compose.wait_until_healthy("gateway")
    before = answered(compose)
    with Load(compose.address("gateway"), BODIES, clients=CLIENTS) as load:
        time.sleep(3.0)
        told = time.monotonic()
        compose("stop")
        stopped = time.monotonic()

    got = Counter(each.status for each in load.exchanges if each.status)
    in_flight = [each for each in load.exchanges if each.began < told < each.ended]
    state = compose.container("gateway")["State"]
    assert len(in_flight) >= CLIENTS // 2
    assert {each.status for each in in_flight} == {200}
    assert set(got) <= {200, 503}
    assert answered(compose) - before == got
    assert state["ExitCode"] == 0, "it ended by itself, in time"
    assert stopped - told < 40.0


def answered(compose: Composed) -> Counter[int]:
    """Calls that generate, by status, of all that the gateway logged."""
    lines = [
        line[line.index("{") :] for line in compose("logs", "--no-log-prefix", "gateway").splitlines() if "{" in line
    ]
    events = [json.loads(line) for line in lines]
    return Counter(each["status"] for each in events if each["event"] == "call" and each["operation"] == "generate")
