"""What makes a replica count or not; the calls themselves are in ``test_backend.py``."""

import asyncio
import itertools
import logging
from dataclasses import replace

import grpc
import pytest

from model_export.contract import Profile
from service.backend import VersionState
from service.backends.tf_serving import backend as backend_module
from service.backends.tf_serving import replica
from service.batching.rows import batch_inputs
from service.errors import BackendFailed, BackendUnavailable
from tests.service.backends.tf_serving.fake_server import (
    FakeTfServing,
    FakeVersion,
    State,
    certified_manifest,
    echo,
    running,
    states,
    until,
)
from tests.support.rows import make_row

READY = {1: VersionState.READY}
LOADING = {1: VersionState.LOADING}
Code = grpc.StatusCode

certified_manifest()  # it runs a loop of its own


async def _generate(backend, timeout_s=5.0):
    return await backend.predict("echo", 1, "generate_ids", batch_inputs([make_row()]), timeout_s)


def _run(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_one_that_fails_repeatedly_is_set_aside_until_a_probe_succeeds():
    async def scenario():
        server = FakeTfServing()
        async with running(server) as backend:
            server.fault = lambda call: (Code.UNAVAILABLE, "connection reset") if call.method == "Predict" else None
            for _ in range(2):  # each asks twice
                with pytest.raises(BackendUnavailable):
                    await _generate(backend)
            await until(lambda: states(backend) == LOADING)
            described = server.count("Predict", "describe")
            await until(lambda: server.count("Predict", "describe") > described + 2)
            assert states(backend) == LOADING, "its status is good, and its answers are not"
            server.fault = lambda call: None
            await until(lambda: states(backend) == READY)
            await _generate(backend)

    _run(scenario)


def test_a_success_between_failures_is_a_new_start():
    async def scenario():
        server = FakeTfServing()
        async with running(server) as backend:
            for _ in range(2 * replica.MAX_FAILURES):
                faults = iter([(Code.UNAVAILABLE, "connection reset")])
                server.fault = lambda call, faults=faults: next(faults, None) if call.rows == 1 else None
                await _generate(backend)
                assert states(backend) == READY

    _run(scenario)


def test_one_whose_status_does_not_come_is_set_aside_after_three_looks():
    async def scenario():
        server = FakeTfServing()
        async with running(server) as backend:
            looks = server.count("GetModelStatus")
            server.fault = lambda call: (Code.DEADLINE_EXCEEDED, "") if call.method == "GetModelStatus" else None
            await until(lambda: states(backend) == LOADING)
            assert server.count("GetModelStatus") - looks >= replica.MAX_FAILURES
            server.fault = lambda call: None
            await until(lambda: states(backend) == READY)

    _run(scenario)


def test_calls_that_a_silent_one_holds_are_asked_of_another():
    async def scenario():
        servers = [FakeTfServing(), FakeTfServing()]
        async with running(*servers) as backend:
            servers[0].delay_s = 60.0
            calls = [asyncio.ensure_future(_generate(backend, timeout_s=30.0)) for _ in range(4)]
            await until(lambda: servers[0].running == 2)
            servers[0].fault = lambda call: (Code.DEADLINE_EXCEEDED, "") if call.method == "GetModelStatus" else None
            await asyncio.wait_for(asyncio.gather(*calls), 10.0)
            assert servers[0].cancelled == 2

    _run(scenario)


def test_looks_that_fail_now_and_then_do_no_harm():
    async def scenario():
        server = FakeTfServing()
        async with running(server) as backend:
            told = []
            backend.subscribe(lambda: told.append(states(backend)))
            answers = itertools.cycle([None, (Code.DEADLINE_EXCEEDED, ""), (Code.DEADLINE_EXCEEDED, "")])
            server.fault = lambda call: next(answers) if call.method == "GetModelStatus" else None
            looks = server.count("GetModelStatus")
            await until(lambda: server.count("GetModelStatus") > looks + 12)
            assert told == []

    _run(scenario)


def test_a_busy_one_is_alive():
    async def scenario():
        server = FakeTfServing()
        async with running(server) as backend:
            server.fault = lambda call: (Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
            looks = server.count("GetModelStatus")
            await until(lambda: server.count("GetModelStatus") > looks + 2 * replica.MAX_FAILURES)
            assert states(backend) == READY

    _run(scenario)


def test_a_lost_connection_is_looked_into_at_once():
    async def scenario():
        server = FakeTfServing()
        async with running(server, version_poll_s=60.0) as backend:
            await server.stop()
            await until(lambda: states(backend) == LOADING)

    _run(scenario)


def test_a_process_that_took_the_place_of_another_is_asked_who_it_is():
    """It was back before anybody looked."""

    async def scenario():
        server = FakeTfServing()
        async with running(server, version_poll_s=60.0) as backend:
            described = server.count("Predict", "describe")
            (of_backend,) = backend._replicas.values()
            of_backend._in_doubt = True
            of_backend._look_now.set()
            await until(lambda: server.count("Predict", "describe") == described + 1)
            assert states(backend) == READY

    _run(scenario)


def test_a_profile_comes_with_the_manifest_and_a_new_one_needs_no_new_examination():
    def profiled(cpu):
        return FakeVersion(replace(certified_manifest(), profile=Profile(cpu, 1, "2.21.0", ())))

    async def scenario():
        server = FakeTfServing({("echo", 1): profiled("a CPU")})
        async with running(server, version_poll_s=60.0) as backend:
            assert backend.versions()[0].manifest.profile.cpu == "a CPU"
            examined = server.count("Predict", "generate_ids")
            server.versions["echo", 1] = profiled("another")
            (of_backend,) = backend._replicas.values()
            of_backend._in_doubt = True
            of_backend._look_now.set()
            await until(lambda: backend.versions()[0].manifest.profile.cpu == "another")
            assert states(backend) == READY
            assert server.count("Predict", "generate_ids") == examined

    _run(scenario)


def test_a_fault_of_ours_does_not_end_the_looking(monkeypatch):
    async def scenario():
        server = FakeTfServing()
        async with running(server) as backend:
            with monkeypatch.context() as patch:
                patch.setattr(replica.wire, "version_statuses", lambda response: 1 / 0)
                looks = server.count("GetModelStatus")
                await until(lambda: server.count("GetModelStatus") > looks + 2)
            await server.stop()
            await until(lambda: states(backend) == LOADING)

    _run(scenario)


@pytest.mark.parametrize("state", [State.LOADING, State.END])
def test_a_version_that_stays_as_it_is_is_told_of_once(state, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("malgil"), "propagate", True)
    monkeypatch.setattr(backend_module, "PATIENCE_S", 0.5)  # for the one that loads
    caplog.set_level(logging.INFO, "malgil")

    async def scenario():
        version = FakeVersion(certified_manifest(), state, "Op type not registered" if state == State.END else "")
        server = FakeTfServing({**echo(1), ("echo", 2): version})
        async with running(server):
            looks = server.count("GetModelStatus")
            await until(lambda: server.count("GetModelStatus") > looks + 3)
        told = [each for each in caplog.records if getattr(each, "fields", {}).get("model_version") == 2]
        assert len(told) == 1

    _run(scenario)


def test_closing_ends_the_looking_also_just_as_a_look_is_due():
    async def scenario():
        for steps in range(4):  # of the loop, between the two
            async with running(FakeTfServing(), version_poll_s=60.0) as backend:
                (of_backend,) = backend._replicas.values()
                await asyncio.sleep(0.1)  # it looked, and waits
                of_backend._look_now.set()
                for _ in range(steps):
                    await asyncio.sleep(0)
                await asyncio.wait_for(of_backend.close(), 5.0)

    _run(scenario)


def test_requests_are_checked_and_so_are_answers():
    inputs = batch_inputs([make_row()])
    request, rows = replica.encode(("echo", 1), "generate_ids", inputs)
    assert rows == 1
    assert b"generate_ids" in request
    with pytest.raises(BackendFailed, match="no signature"):
        replica.encode(("echo", 1), "nope", inputs)
    with pytest.raises(BackendFailed, match="missing"):
        replica.encode(("echo", 1), "generate_ids", {})
    with pytest.raises(BackendFailed, match="it is missing"):
        replica.decode("generate_ids", b"", 1)
