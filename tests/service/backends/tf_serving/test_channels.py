"""Connections on which nothing arrives, TLS with certificates made here, and files that make no sense."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import grpc
import pytest

from service.backend import VersionState
from service.backends.tf_serving import TfServingBackend, backend, channels, replica
from service.batching.rows import batch_inputs
from service.errors import BackendUnavailable
from tests.service.backends.tf_serving import swallowed_call
from tests.service.backends.tf_serving.fake_process import FakeProcess
from tests.service.backends.tf_serving.fake_server import (
    FakeTfServing,
    certified_manifest,
    running,
    settings_for,
    states,
    until,
)
from tests.service.backends.tf_serving.full_buffer import FullBuffer
from tests.support.rows import at_most, make_row

certified_manifest()  # it runs a loop of its own

ISOLATED = ("unshare", "--map-root-user", "--net")
"""Runs a command in a network of its own, which it may cut."""


def test_a_call_that_the_network_swallows_fails_before_its_deadline():
    if not shutil.which("unshare") or subprocess.run([*ISOLATED, "true"], check=False, capture_output=True).returncode:
        pytest.skip("there is no network to be had that may be cut")
    command = [*ISOLATED, sys.executable, "-m", swallowed_call.__name__]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout.split()

    assert said[0] == "UNAVAILABLE"
    assert swallowed_call.UNACKNOWLEDGED_S <= float(said[1]) < swallowed_call.DEADLINE_S / 2


def test_a_connection_is_given_up_after_five_seconds_without_an_acknowledgement():
    async def scenario():
        server = FakeTfServing()
        async with running(server):
            return [each.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for each in _sockets_to(server.port)]

    assert asyncio.run(asyncio.wait_for(scenario(), 20)) == [5000]


def _sockets_to(port):
    """Of this process, to that port: gRPC does not show its own."""
    for number in os.listdir("/proc/self/fd"):
        try:
            found = socket.socket(fileno=os.dup(int(number)))
        except OSError:  # it is none, or closed again
            continue
        with found:
            try:
                is_to_it = found.family in (socket.AF_INET, socket.AF_INET6) and found.getpeername()[1] == port
            except OSError:  # it has no peer
                continue
            if is_to_it:
                yield found


def test_calls_that_do_not_get_through_are_asked_of_another_replica(monkeypatch):
    """Long before it is noticed that nothing is answered, which would be after three looks."""
    monkeypatch.setattr(channels, "UNACKNOWLEDGED_S", 1.0)

    async def scenario():
        stuck, other = FullBuffer(), FakeTfServing()
        async with running(stuck, other) as tested:
            counts = stuck.count("Predict", "generate_ids"), other.count("Predict", "generate_ids")
            stuck.is_stuck = True
            began = time.monotonic()
            await asyncio.gather(*(_generate(tested, rows=64) for _ in range(4)))
            took = time.monotonic() - began
            assert (stuck.count("Predict", "generate_ids"), other.count("Predict", "generate_ids") - 4) == counts
        assert channels.UNACKNOWLEDGED_S <= took < 3 * replica.STATUS_TIMEOUT_S - 1.0

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_stopped_process_is_given_up_after_three_looks_and_back_with_the_first_that_it_answers(monkeypatch):
    """Its kernel goes on acknowledging, so that the connection stays."""
    monkeypatch.setattr(channels, "UNACKNOWLEDGED_S", 0.4)
    monkeypatch.setattr(replica, "STATUS_TIMEOUT_S", 0.7)

    async def scenario():
        stopped, other = FakeProcess(), FakeTfServing()
        async with running(stopped, other) as tested:
            connected = [each.getsockname() for each in _sockets_to(stopped.port)]
            stopped.freeze()
            began = time.monotonic()
            await asyncio.gather(*(_generate(tested) for _ in range(4)))
            assert 3 * replica.STATUS_TIMEOUT_S - 0.1 < time.monotonic() - began < 10.0
            assert tested.versions()[0].replicas[stopped.address].startswith("loading")
            stopped.thaw()
            await until(lambda: tested.versions()[0].replicas[stopped.address] == "ready")
            assert [each.getsockname() for each in _sockets_to(stopped.port)] == connected

    asyncio.run(asyncio.wait_for(scenario(), 20))


async def _generate(tested, rows=1):
    inputs = batch_inputs([make_row(60) for _ in range(rows)])
    outputs = await tested.predict("echo", 1, "generate_ids", inputs, swallowed_call.DEADLINE_S)
    assert len(outputs["ids"]) == rows


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An authority, and certificates with keys that it signed for two servers (by name and by address) and a client."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *ec, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-days", "2")
    for name, alternative in (("models", "DNS:models"), ("addressed", "IP:10.1.2.3"), ("client", "DNS:client")):
        openssl("req", *ec, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "names").write_text(f"subjectAltName={alternative}")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
    return folder


def _credentials(files, *, mutual, of="models"):
    pair = (files / f"{of}.key").read_bytes(), (files / f"{of}.pem").read_bytes()
    authority = (files / "ca.pem").read_bytes() if mutual else None
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=mutual)


def _is_ready(files, *, mutual=False, of="models", **settings):
    """Whether a backend with these settings comes to terms with a server."""

    async def scenario():
        server = FakeTfServing()
        await server.start(_credentials(files, mutual=mutual, of=of))
        tested = TfServingBackend(settings_for(server, **settings), at_most(4))
        await tested.start()
        found = states(tested)
        await tested.close()
        await server.stop()
        return found == {1: VersionState.READY}

    return asyncio.run(asyncio.wait_for(scenario(), 20))


def test_tls_holds_the_server_to_its_name(monkeypatch, files):
    ca = {"tf_serving_tls": True, "tf_serving_ca_file": files / "ca.pem"}
    assert _is_ready(files, **ca, tf_serving_server_name="models")
    monkeypatch.setattr(backend, "PATIENCE_S", 1.0)
    assert not _is_ready(files, **ca, tf_serving_server_name="others")
    assert not _is_ready(files, **ca), "the address is none of its names"
    assert not _is_ready(files, tf_serving_tls=True, tf_serving_server_name="models"), "unknown authority"
    assert not _is_ready(files), "without TLS"


def test_a_name_that_is_an_address_is_held_to_as_well(monkeypatch, files):
    tls = {"tf_serving_tls": True, "tf_serving_ca_file": files / "ca.pem"}
    assert _is_ready(files, of="addressed", **tls, tf_serving_server_name="10.1.2.3")
    monkeypatch.setattr(backend, "PATIENCE_S", 1.0)
    assert not _is_ready(files, of="addressed", **tls, tf_serving_server_name="10.1.2.4")


def test_mutual_tls_shows_our_own_certificate(monkeypatch, files):
    tls = {"tf_serving_tls": True, "tf_serving_ca_file": files / "ca.pem", "tf_serving_server_name": "models"}
    own = {
        "tf_serving_client_certificate_file": files / "client.pem",
        "tf_serving_client_key_file": files / "client.key",
    }
    assert _is_ready(files, mutual=True, **tls, **own)
    monkeypatch.setattr(backend, "PATIENCE_S", 1.0)
    assert not _is_ready(files, mutual=True, **tls)


def test_the_name_of_an_address_is_the_name_that_is_expected(monkeypatch, files):
    async def getaddrinfo(loop, host, port, *, type):
        return [(2, type, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", getaddrinfo)

    async def scenario():
        server = FakeTfServing()
        await server.start(_credentials(files, mutual=False))
        named = SimpleNamespace(address=f"models:{server.port}")
        tested = TfServingBackend(
            settings_for(named, tf_serving_tls=True, tf_serving_ca_file=files / "ca.pem"), at_most(4)
        )
        await tested.start()
        await until(lambda: states(tested) == {1: VersionState.READY})
        await tested.close()
        await server.stop()

    asyncio.run(asyncio.wait_for(scenario(), 20))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"tf_serving_ca_file": "missing.pem"}, r"missing\.pem cannot be used: No such file"),
        ({"tf_serving_ca_file": "models.key"}, r"models\.key cannot be used: "),
        (
            {"tf_serving_client_certificate_file": "client.pem", "tf_serving_client_key_file": "models.key"},
            r"client\.pem with .*models\.key cannot be used: .*MISMATCH",
        ),
        (
            {"tf_serving_client_certificate_file": "client.pem", "tf_serving_client_key_file": "missing.key"},
            r"missing\.key cannot be used: No such file",
        ),
    ],
)
def test_files_that_make_no_sense_are_named_at_the_start(files, named, message):
    settings = settings_for(
        tf_serving_addresses="models:8500",
        tf_serving_tls=True,
        **{setting: files / name for setting, name in named.items()},
    )
    with pytest.raises(BackendUnavailable, match=message):
        TfServingBackend(settings, at_most(4))
