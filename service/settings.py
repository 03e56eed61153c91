"""One typed Settings object, built once at start-up and passed in; nothing reads the environment anywhere else.

Each field can be set as an environment variable with the prefix ``MALGIL_`` (``MALGIL_PORT=8080``);
``docs/settings.md`` lists them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ENVIRONMENT_PREFIX = "MALGIL_"


def usable_cores() -> int:
    """Cores this process may run on (containers and ``taskset`` narrow them)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Settings(BaseSettings):
    """How this server runs. Times are in the unit that the name ends with."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True, extra="forbid")

    # where it listens
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for all interfaces.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the REST interface; 0 takes a free one.")

    # what it serves
    backend: Literal["embedded", "scripted"] = Field(
        "embedded",
        description="What runs the models: TensorFlow in this process, or a fake that echoes texts, to test clients.",
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
    max_batch_rows: int = Field(32, ge=1, le=4096, description="Most texts run together.")
    max_batch_tokens: int = Field(
        8192,
        ge=1,
        le=10_000_000,
        description="Most tokens run together, padding included: rows x beam size x longest (source + output).",
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
