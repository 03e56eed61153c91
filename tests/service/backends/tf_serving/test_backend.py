"""The backend on servers that behave as TF Serving does, well and badly."""

import asyncio
import functools
from dataclasses import replace

import grpc
import numpy as np
import pytest

from service.backend import VersionState
from service.backends.tf_serving import TfServingBackend, backend, replica
from service.backends.tf_serving.addresses import Address, Endpoint
from service.batching.rows import batch_inputs
from service.errors import BackendFailed, BackendUnavailable, DeadlineExceeded, ModelNotFound, Overloaded
from tests.service.backends.tf_serving.fake_server import (
    FakeTfServing,
    FakeVersion,
    State,
    certified_manifest,
    echo,
    running,
    settings_for,
    states,
    uncertified,
    until,
)
from tests.support.rows import at_most, make_row

LOADING, READY, REFUSED = VersionState.LOADING, VersionState.READY, VersionState.REFUSED
Code = grpc.StatusCode
EXHAUSTED = (Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
GONE = (Code.UNAVAILABLE, "Stream removed (Socket closed)")

certified_manifest()  # it runs a loop of its own


def in_a_loop(test):
    """A test that is a coroutine; nothing of it takes longer than 20 s."""

    @functools.wraps(test)
    def wrapped(*arguments, **keywords):
        asyncio.run(asyncio.wait_for(test(*arguments, **keywords), 20))

    return wrapped


def inputs(**changed):
    return {**batch_inputs([make_row(), make_row(6)]), **changed}


async def generate(backend, version=1, timeout_s=5.0):
    outputs = await backend.predict("echo", version, "generate_ids", inputs(), timeout_s)
    assert outputs["ids"].tolist() == [[[260, 261, 262, 3, 0, 0]], [[260, 261, 262, 263, 264, 3]]]
    return outputs


def generations(server):
    """Calls of ``generate_ids`` that came so far."""
    return server.count("Predict", "generate_ids")


def on_generation(fault, times=10**9):
    """A fault of so many calls of ``generate_ids``."""
    left = iter(range(times))
    return lambda call: fault if call.signature == "generate_ids" and next(left, None) is not None else None


# --- what is there ----------------------------------------------------------------------------------------------------


@in_a_loop
async def test_each_replica_is_certified_and_warm_before_it_counts():
    servers = [FakeTfServing(), FakeTfServing()]
    async with running(*servers, tf_serving_concurrent_runs=3) as backend:
        (version,) = backend.versions()
        assert (version.name, version.version, version.state) == ("echo", 1, READY)
        assert version.manifest == certified_manifest()
        assert version.replicas == {server.address: "ready" for server in servers}
        assert backend.slots == 6
    for server in servers:
        rows = [call.rows for call in server.calls if call.signature == "generate_ids"]
        assert rows == [2, 2, 1, 4, 1, 4], "the certificate, then the warm-up, for each beam size"


@in_a_loop
async def test_versions_are_found_and_the_broken_ones_stay_out(monkeypatch, caplog):
    monkeypatch.setattr(backend, "PATIENCE_S", 0.5)  # for version 2
    versions = {
        **echo(1, 3),
        ("echo", 2): FakeVersion(certified_manifest(), State.LOADING),
        ("echo", 4): FakeVersion(uncertified(certified_manifest())),
        ("echo", 5): FakeVersion(certified_manifest(), State.END, "Op type not registered 'SentencepieceOp'"),
        ("echo", 6): FakeVersion(certified_manifest(), State.END),
        ("stranger", 1): FakeVersion(certified_manifest()),
    }
    server = FakeTfServing(versions)
    async with running(server, tf_serving_models="echo,absent") as tested:
        told = [record.fields for record in caplog.records if record.message == "TF Serving has no version of a model"]
        assert told == [{"model_name": "absent"}], "once"
        assert states(tested) == {1: READY, 2: LOADING, 3: READY, 4: REFUSED, 5: REFUSED}
        reasons = {each.version: each.reason for each in tested.versions()}
        assert "fails its certificate" in reasons[4]
        assert "SentencepieceOp" in reasons[5]
        assert {each.name for each in tested.versions()} == {"echo"}
        for version, error in ((2, BackendUnavailable), (4, ModelNotFound), (5, ModelNotFound), (6, ModelNotFound)):
            with pytest.raises(error):
                await generate(tested, version)


@in_a_loop
async def test_a_new_version_is_ready_when_it_is_certified_and_the_old_one_until_it_is_gone():
    server = FakeTfServing()
    async with running(server) as backend:
        told = []
        backend.subscribe(lambda: told.append(states(backend)))
        server.versions |= echo(2)
        await until(lambda: states(backend) == {2: READY, 1: READY})
        server.versions["echo", 1].state = State.UNLOADING
        await until(lambda: states(backend) == {2: READY})
        await generate(backend, 2)
        assert told == [{2: LOADING, 1: READY}, {2: READY, 1: READY}, {2: READY}]


@in_a_loop
async def test_a_bad_version_stays_out_until_it_is_removed():
    server = FakeTfServing()
    async with running(server) as backend:
        server.versions["echo", 2] = FakeVersion(uncertified(certified_manifest()))
        await until(lambda: states(backend) == {2: REFUSED, 1: READY})
        calls = generations(server)
        await asyncio.sleep(0.2)
        assert generations(server) == calls, "it is not tried again and again"
        await generate(backend, 1)
        del server.versions["echo", 2]
        await until(lambda: states(backend) == {1: READY})


@in_a_loop
async def test_a_replica_with_another_manifest_stays_out():
    other = replace(certified_manifest(), provenance={"steps": 7})
    servers = [FakeTfServing(), FakeTfServing()]
    async with running(*servers) as backend:
        servers[1].versions["echo", 2] = FakeVersion(other)
        await until(lambda: states(backend) == {2: READY, 1: READY})
        servers[0].versions["echo", 2] = FakeVersion(certified_manifest())
        await until(lambda: len(backend.versions()[0].replicas) == 2)
        await until(lambda: backend.versions()[0].replicas[servers[0].address].startswith("refused: its manifest"))
        assert backend.versions()[0].manifest == other


@in_a_loop
async def test_an_examination_that_proves_nothing_is_tried_again():
    server = FakeTfServing(fault=on_generation(EXHAUSTED, times=1))
    async with running(server) as backend:
        await until(lambda: states(backend) == {1: READY})
        assert generations(server) > 6


# --- calls ------------------------------------------------------------------------------------------------------------


@in_a_loop
async def test_an_answer_comes_within_the_deadline_that_is_passed_on():
    server = FakeTfServing()
    async with running(server) as backend:
        outputs = await generate(backend, timeout_s=3.0)
        assert outputs["scores"].dtype == np.float32
        assert 1.0 < server.calls[-1].seconds_left < 4.0
        server.delay_s = 5.0
        with pytest.raises(DeadlineExceeded):
            await generate(backend, timeout_s=0.5)
        await until(lambda: server.cancelled == 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"source_ids": np.zeros((2, 3), np.int64)},
        {"source_lengths": np.zeros((2, 1), np.int32)},
        {"source_lengths": np.zeros(3, np.int32)},
        {"beam_size": np.array(1, np.int32)},
        {name: array[:0] for name, array in batch_inputs([make_row()]).items()},
        {"more": np.zeros(2, np.int32)},
    ],
)
@in_a_loop
async def test_what_tf_serving_should_not_accept_never_leaves(changed):
    server = FakeTfServing()
    async with running(server) as backend:
        before = generations(server)
        with pytest.raises(BackendFailed, match="generate_ids"):
            await backend.predict("echo", 1, "generate_ids", inputs(**changed))
        with pytest.raises(BackendFailed, match="no signature"):
            await backend.predict("echo", 1, "nope", inputs())
        assert generations(server) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda outputs: outputs.pop("scores"), "scores of generate_ids: it is missing"),
        (lambda outputs: outputs.update(scores=outputs["scores"][:1]), "scores of generate_ids: shape"),
        (lambda outputs: outputs.update(lengths=outputs["scores"]), "lengths of generate_ids: float32"),
    ],
)
@in_a_loop
async def test_an_answer_that_is_not_what_the_signature_promises_is_a_failure(change, message):
    server = FakeTfServing()
    async with running(server) as backend:
        server.change = change
        with pytest.raises(BackendFailed, match=message):
            await generate(backend)


@in_a_loop
async def test_the_least_loaded_replica_is_asked_and_none_more_than_it_may():
    servers = [FakeTfServing(), FakeTfServing()]
    async with running(*servers, tf_serving_concurrent_runs=2) as backend:
        for server in servers:
            server.calls.clear()
            server.most_running = 0
            server.delay_s = 0.2
        await asyncio.gather(*(generate(backend) for _ in range(4)))
        assert [generations(server) for server in servers] == [2, 2]
        await asyncio.gather(*(generate(backend) for _ in range(12)))
        assert [server.most_running for server in servers] == [2, 2]
        assert sum(map(generations, servers)) == 16


@in_a_loop
async def test_who_waits_for_a_replica_waits_no_longer_than_its_deadline():
    server = FakeTfServing()
    async with running(server, tf_serving_concurrent_runs=1) as backend:
        server.delay_s = 1.0
        first = asyncio.ensure_future(generate(backend))
        await until(lambda: server.running == 1)
        with pytest.raises(DeadlineExceeded):
            await generate(backend, timeout_s=0.1)
        await first


@in_a_loop
async def test_a_caller_that_is_cancelled_cancels_the_call():
    server = FakeTfServing()
    async with running(server) as backend:
        server.delay_s = 5.0
        call = asyncio.ensure_future(generate(backend))
        await until(lambda: server.running == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: server.cancelled == 1)


@pytest.mark.parametrize("fault", [GONE, EXHAUSTED], ids=["gone", "exhausted"])
@in_a_loop
async def test_what_one_replica_cannot_take_another_one_does(fault):
    servers = [FakeTfServing(), FakeTfServing()]
    async with running(*servers) as backend:
        servers[0].fault = on_generation(fault)
        for _ in range(10):
            await generate(backend)


@in_a_loop
async def test_a_single_replica_is_asked_again_after_a_stale_connection():
    server = FakeTfServing()
    async with running(server) as backend:
        server.fault = on_generation(GONE, times=1)
        await generate(backend)


@pytest.mark.parametrize(
    ("fault", "error", "calls"),
    [
        (GONE, BackendUnavailable, 4),
        (EXHAUSTED, Overloaded, 2),
        ((Code.UNAVAILABLE, "The batch scheduling queue to which this task was submitted is full"), Overloaded, 2),
        ((Code.INVALID_ARGUMENT, "assertion failed"), BackendFailed, 1),
        ((Code.INTERNAL, ""), BackendFailed, 1),
        ((Code.DEADLINE_EXCEEDED, ""), DeadlineExceeded, 1),
        ((Code.NOT_FOUND, "Servable not found for request: Specific(echo, 1)"), ModelNotFound, 2),
    ],
)
@in_a_loop
async def test_only_what_is_safe_is_asked_again(fault, error, calls):
    servers = [FakeTfServing(), FakeTfServing()]
    async with running(*servers, version_poll_s=60.0) as backend:
        before = sum(map(generations, servers))
        for server in servers:
            server.fault = on_generation(fault, times=2)
        with pytest.raises(error) as raised:
            await generate(backend)
        assert sum(map(generations, servers)) == before + calls
        assert (raised.value.retry_after_s == 1) == (error in (BackendUnavailable, Overloaded))


@in_a_loop
async def test_nothing_is_asked_again_past_the_deadline(monkeypatch):
    monkeypatch.setattr(backend, "RETRY_PAUSE_S", 1.0)
    server = FakeTfServing()
    async with running(server, version_poll_s=60.0) as tested:
        server.fault = on_generation(GONE)
        before = generations(server)
        with pytest.raises(DeadlineExceeded):
            await generate(tested, timeout_s=0.5)  # shorter than the pause
        assert generations(server) == before + 1


@in_a_loop
async def test_a_version_that_a_replica_no_longer_has_is_asked_of_another():
    servers = [FakeTfServing(), FakeTfServing()]
    async with running(*servers, version_poll_s=60.0) as backend:
        del servers[0].versions["echo", 1]
        for _ in range(5):
            await generate(backend)
        assert backend.versions()[0].replicas == {servers[1].address: "ready"} or not servers[0].calls[-1].rows
        servers[1].versions.clear()
        with pytest.raises(ModelNotFound):
            await generate(backend)
        assert backend.versions() == ()


@in_a_loop
async def test_an_answer_that_is_too_large_is_a_failure_for_good():
    async with running(FakeTfServing(), tf_serving_max_message_bytes=4096) as backend:
        (version,) = backend.versions()
        assert version.state is REFUSED
        assert "larger than max" in version.reason


# --- replicas that come and go ----------------------------------------------------------------------------------------


@in_a_loop
async def test_of_two_replicas_one_is_killed_and_no_request_fails():
    servers = [FakeTfServing(), FakeTfServing()]
    async with running(*servers) as backend:
        for server in servers:
            server.delay_s = 0.02
        running_calls = asyncio.gather(*(_in_a_row(backend, 30) for _ in range(4)))
        await until(lambda: servers[0].running == 2)
        await servers[0].stop()
        await running_calls
        assert backend.slots == 2
        assert backend.versions()[0].replicas[servers[0].address] == f"loading: {replica.UNREACHABLE}"


async def _in_a_row(backend, calls):
    for _ in range(calls):
        await generate(backend)


@in_a_loop
async def test_a_server_that_is_back_serves_again_without_a_new_examination():
    server = FakeTfServing()
    async with running(server) as backend:
        before = generations(server)
        await server.stop()
        await until(lambda: states(backend) == {1: LOADING})
        with pytest.raises(BackendUnavailable) as raised:
            await generate(backend)
        assert raised.value.retry_after_s == 1
        await asyncio.sleep(1.0)
        await server.start()
        await until(lambda: states(backend) == {1: READY})
        assert generations(server) == before
        await generate(backend)


@in_a_loop
async def test_a_server_that_is_back_with_another_artifact_is_examined_anew():
    server = FakeTfServing()
    async with running(server) as backend:
        for manifest, state in (
            (uncertified(certified_manifest()), REFUSED),
            (replace(certified_manifest(), provenance={"steps": 7}), READY),
        ):
            await server.stop()
            await until(lambda: states(backend) == {1: LOADING})
            before = generations(server)
            server.versions["echo", 1] = FakeVersion(manifest)
            await server.start()
            await until(lambda expected=state: states(backend) == {1: expected})
            assert generations(server) > before
        assert backend.versions()[0].manifest.provenance == {"steps": 7}


@in_a_loop
async def test_a_server_that_is_not_there_yet_is_waited_for_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(backend, "PATIENCE_S", 0.3)
    server = FakeTfServing()
    await server.start()
    await server.stop()
    tested = TfServingBackend(settings_for(server), at_most(4))
    await tested.start()
    assert tested.versions() == ()
    assert tested.slots == 2
    with pytest.raises(ModelNotFound):
        await generate(tested)
    await server.start()
    await until(lambda: states(tested) == {1: READY})
    await generate(tested)
    await tested.close()
    await server.stop()


@in_a_loop
async def test_addresses_of_a_name_come_and_go(monkeypatch, caplog):
    servers = [FakeTfServing(), FakeTfServing()]
    for server in servers:
        await server.start()
    found = [servers[:1]]

    async def resolve(address):
        assert address == Address("models", 8500)
        if found[0] is None:
            raise OSError("Temporary failure in name resolution")
        return [Endpoint(Address("127.0.0.1", server.port), "models") for server in found[0]]

    monkeypatch.setattr(backend, "resolve", resolve)
    monkeypatch.setattr(backend, "RESOLVE_S", 0.05)
    tested = TfServingBackend(settings_for(tf_serving_addresses="models:8500"), at_most(4))
    await tested.start()
    assert tested.slots == 2
    found[0] = servers
    await until(lambda: tested.slots == 4)
    servers[0].delay_s = 0.5
    calls = [asyncio.ensure_future(generate(tested)) for _ in range(4)]
    await until(lambda: servers[0].running == 2)
    found[0] = servers[1:]
    await until(lambda: tested.slots == 2)
    await asyncio.gather(*calls)  # those that ran were let end
    assert tested.versions()[0].replicas == {servers[1].address: "ready"}
    found[0] = None
    await asyncio.sleep(0.2)
    assert [record.message for record in caplog.records].count("a name of TF Serving cannot be resolved") == 1
    servers[1].delay_s = 60.0
    call = asyncio.ensure_future(generate(tested, timeout_s=60.0))
    await until(lambda: servers[1].running == 1)
    found[0] = []
    await until(lambda: tested.versions() == ())
    await tested.close()
    with pytest.raises(BackendUnavailable):
        await call
    for server in servers:
        await server.stop()


@in_a_loop
async def test_a_name_that_takes_long_to_resolve_holds_nothing_up(monkeypatch):
    monkeypatch.setattr(backend, "PATIENCE_S", 0.5)
    server = FakeTfServing()

    async def resolve(address):
        if address.host == "slow":
            await asyncio.sleep(60.0)
        return [Endpoint(address, address.host)]

    monkeypatch.setattr(backend, "resolve", resolve)
    await server.start()
    tested = TfServingBackend(settings_for(tf_serving_addresses=f"slow:8500,{server.address}"), at_most(4))
    await tested.start()
    await until(lambda: states(tested) == {1: READY})
    await generate(tested)
    await tested.close()
    await server.stop()


@in_a_loop
async def test_calls_that_run_end_when_it_is_closed():
    server = FakeTfServing()
    async with running(server) as backend:
        server.delay_s = 10.0
        calls = [asyncio.ensure_future(generate(backend, timeout_s=None)) for _ in range(3)]
        await until(lambda: server.running == 2)
        await backend.close()
        for error in await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5.0):
            assert isinstance(error, (BackendUnavailable, ModelNotFound))
        assert backend.versions() == ()


@in_a_loop
async def test_calls_that_run_on_a_replica_that_has_just_gone_end_when_it_is_closed():
    server = FakeTfServing()
    async with running(server) as backend:
        server.delay_s = 60.0
        call = asyncio.ensure_future(generate(backend, timeout_s=60.0))
        await until(lambda: server.running == 1)
        backend._resolved.clear()
        backend._take_replicas()
        await backend.close()
        with pytest.raises(BackendUnavailable):
            await call


def test_no_models_are_a_clear_error():
    with pytest.raises(BackendUnavailable, match="name them in --tf-serving-models"):
        TfServingBackend(settings_for(tf_serving_models=" , ", tf_serving_addresses="models:8500"), at_most(4))
