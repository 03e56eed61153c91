"""How a gRPC channel to a replica is made: plain, or with TLS."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import grpc
import grpc.aio

from service.backends.tf_serving.addresses import Endpoint
from service.errors import BackendUnavailable
from service.settings import Settings

Connect: TypeAlias = Callable[[Endpoint], grpc.aio.Channel]
"""Opens a channel to exactly one replica; it connects when it is used."""

UNACKNOWLEDGED_S: Final = 5.0
"""What the other machine's kernel has not acknowledged within it is lost, and the connection with it: a container or a
node that vanishes says nothing. The kernel of a server that merely runs long acknowledges what there is room for."""
PING_MS: Final = 2**31 - 2
"""25 days, which is as good as never; one more turns pings off, and TCP_USER_TIMEOUT with them: gRPC sets it, to the
time that it waits for the answer to a keepalive ping, on channels that send such pings
(https://github.com/grpc/proposal/blob/master/A18-tcp-user-timeout.md). The pings themselves are not wanted: one that
finds a server frozen for so long ends its calls, and TF Serving hangs up on who sends more than one in 5 minutes."""


def connector(settings: Settings) -> Connect:
    """What connects as the settings say. Files are read now, once.

    Raises:
        BackendUnavailable: a file cannot be read, or is not what it should be.
    """
    options = [
        ("grpc.max_send_message_length", settings.tf_serving_max_message_bytes),
        ("grpc.max_receive_message_length", settings.tf_serving_max_message_bytes),
        # A call that the network swallows fails before its own deadline: others are asked while there is time.
        ("grpc.keepalive_time_ms", PING_MS),
        ("grpc.keepalive_timeout_ms", round(UNACKNOWLEDGED_S * 1000)),
        # A replica that is back is found within a second.
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # A connection is one replica's, and of this channel alone: no proxy, nothing shared with an earlier channel.
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if not settings.tf_serving_tls:
        return lambda endpoint: grpc.aio.insecure_channel(endpoint.target, options)
    _check_files(settings)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(settings.tf_serving_ca_file),
        private_key=_read(settings.tf_serving_client_key_file),
        certificate_chain=_read(settings.tf_serving_client_certificate_file),
    )

    def connect(endpoint: Endpoint) -> grpc.aio.Channel:
        # An address that was configured as one is the target itself, and held to without being told.
        name = settings.tf_serving_server_name or ("" if _is_ip_address(endpoint.name) else endpoint.name)
        named = [("grpc.ssl_target_name_override", name)] if name else []
        return grpc.aio.secure_channel(endpoint.target, credentials, [*options, *named])

    return connect


def _check_files(settings: Settings) -> None:
    """gRPC says nothing of files that make no sense, but that no connection comes about."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if settings.tf_serving_ca_file:
            context.load_verify_locations(settings.tf_serving_ca_file)
    except OSError as error:
        raise BackendUnavailable(f"{settings.tf_serving_ca_file} cannot be used: {error.strerror or error}") from error
    certificate, key = settings.tf_serving_client_certificate_file, settings.tf_serving_client_key_file
    try:
        if certificate and key:
            context.load_cert_chain(certificate, key, password="")  # else a key with one is asked for on the terminal
    except OSError as error:
        raise BackendUnavailable(f"{certificate} with {key} cannot be used: {error.strerror or error}") from error


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
