"""One typed Settings object, built once at start-up and passed in; nothing reads the environment anywhere else.

Each field can be set as an environment variable with the prefix ``MALGIL_`` (``MALGIL_PORT=8080``);
``docs/settings.md`` lists them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ENVIRONMENT_PREFIX = "MALGIL_"
MAX_BATCH_ROWS: Final = 32
MAX_BATCH_TOKENS: Final = 8192
"""Of batches of models without a profile, where no setting says otherwise."""


def usable_cores() -> int:
    """Cores this process may run on (containers and ``taskset`` narrow them)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Settings(BaseSettings):
    """How this server runs. Times are in the unit that the name ends with."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    # where it listens
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for all interfaces.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the REST interface; 0 takes a free one.")
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of `/metrics` alone, for Prometheus; by default it is on that of REST."
    )
    grpc_port: int = Field(9000, ge=-1, le=65535, description="Port of gRPC; 0 takes a free one, -1 turns gRPC off.")
    grpc_max_connection_age_s: float = Field(
        300.0, gt=0.0, le=86_400.0, description="A gRPC connection is renewed after it, so that clients spread anew."
    )
    grpc_keepalive_s: float = Field(
        60.0, gt=0.0, le=3600.0, description="A silent gRPC connection is asked for a sign of life after it."
    )

    # what it serves
    backend: Literal["embedded", "tf-serving", "scripted"] = Field(
        "embedded",
        description="What runs the models: TensorFlow in this process, TF Serving, or a fake that echoes texts.",
    )
    models_folder: Path = Field(
        Path("build/models"), description="Folder of models, `<model>/<version>/`, as TF Serving's model base path."
    )
    intra_op_threads: int = Field(1, ge=1, le=256, description="Threads within one run of a model.")
    concurrent_runs: int = Field(
        default_factory=usable_cores,
        ge=1,
        le=256,
        description="Runs of models at the same time; by default one for each usable core.",
    )

    versions_served: int = Field(
        1, ge=1, le=16, description="Newest good versions of each model that are loaded; labels may name more."
    )
    version_poll_s: float = Field(
        1.0, gt=0.0, le=3600.0, description="Time between two looks for new, removed and changed versions and labels."
    )
    labels_file: Path | None = Field(None, description="YAML: the versions that labels of models stand for; watched.")
    tokenize: Literal["auto", "gateway", "graph"] = Field(
        "auto", description="Who tokenizes; auto: the gateway where it has the artifact's kind of tokenizer."
    )
    tokenizer_check_share: float = Field(
        0.01, ge=0.0, le=1.0, description="Share of the texts on which gateway and graph are compared."
    )

    # TF Serving
    tf_serving_addresses: str = Field(
        "127.0.0.1:8500", min_length=1, description="gRPC addresses, separated by commas; a name may stand for several."
    )
    tf_serving_models: str = Field("", description="Names of the models it serves, separated by commas.")
    tf_serving_concurrent_runs: int = Field(
        2, ge=1, le=256, description="Calls to one replica at the same time: the cores that it has."
    )
    tf_serving_max_message_bytes: int = Field(
        67_108_864, ge=4096, le=2_147_483_647, description="Largest message to and from TF Serving."
    )
    tf_serving_tls: bool = Field(False, description="Speak TLS with TF Serving.")
    tf_serving_ca_file: Path | None = Field(None, description="Certificates that TF Serving's must be signed by (PEM).")
    tf_serving_client_certificate_file: Path | None = Field(None, description="Our own, for mutual TLS (PEM).")
    tf_serving_client_key_file: Path | None = Field(None, description="Its key (PEM).")
    tf_serving_server_name: str = Field("", description="Name in TF Serving's certificate where it is not the address.")

    # what it accepts
    max_body_bytes: int = Field(
        1_048_576, ge=1024, le=268_435_456, description="Largest request body; checked before it is parsed."
    )
    max_inputs: int = Field(128, ge=1, le=65_536, description="Most texts in one request.")
    max_input_characters: int = Field(
        100_000, ge=1, le=10_000_000, description="Longest text; the model's own limit counts tokens."
    )

    # how rows wait and run together
    queue_rows: int = Field(
        2048,
        ge=1,
        le=1_000_000,
        description="Texts that may wait; a request for which there is no room is answered 429.",
    )
    max_batch_rows: int | None = Field(
        None,
        ge=1,
        le=4096,
        description=f"Most texts run together; by default as the profile says, or {MAX_BATCH_ROWS}.",
    )
    max_batch_tokens: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Most tokens run together, padding included: rows x beam size x longest (source + output); "
        f"by default as the profile says, or {MAX_BATCH_TOKENS}.",
    )

    # how long things may take
    default_timeout_ms: int = Field(
        30_000, ge=1, le=3_600_000, description="Time for a request that does not say `X-Request-Timeout-Ms`."
    )
    max_timeout_ms: int = Field(
        120_000, ge=1, le=3_600_000, description="Longest time a request can ask for; longer ones are shortened to it."
    )
    drain_timeout_s: float = Field(
        25.0, ge=0.0, le=3600.0, description="After SIGTERM, time to finish the requests already accepted."
    )
    header_timeout_s: float = Field(
        10.0, gt=0.0, le=3600.0, description="A connection that has not sent a request's headers by then is closed."
    )
    idle_timeout_s: float = Field(
        75.0, gt=0.0, le=3600.0, description="A connection kept alive without requests is closed after it."
    )
    write_timeout_s: float = Field(
        60.0, gt=0.0, le=3600.0, description="A connection whose client has not read an answer by then is closed."
    )

    # what it tells
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe events that are logged (JSON lines on stderr, never texts)."
    )

    @model_validator(mode="after")
    def _bounds_agree(self) -> Settings:
        if self.default_timeout_ms > self.max_timeout_ms:
            raise ValueError(
                f"default_timeout_ms {self.default_timeout_ms} exceeds max_timeout_ms {self.max_timeout_ms}"
            )
        if self.max_inputs > self.queue_rows:
            raise ValueError(
                f"max_inputs {self.max_inputs} exceeds queue_rows {self.queue_rows}: such requests would never fit"
            )
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Settings:
        files = self.tf_serving_ca_file, self.tf_serving_client_certificate_file, self.tf_serving_client_key_file
        if not self.tf_serving_tls and (any(files) or self.tf_serving_server_name):
            raise ValueError("files or a name for TLS with TF Serving are given, but tf_serving_tls is not true")
        if (self.tf_serving_client_certificate_file is None) != (self.tf_serving_client_key_file is None):
            raise ValueError(
                "tf_serving_client_certificate_file and tf_serving_client_key_file go together: one is missing"
            )
        return self
