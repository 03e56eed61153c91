"""What the server tells about itself: Prometheus metrics and JSON log lines.

Metrics live in a registry of their own, one for each ``Telemetry``, so that two servers in one process do not mix.
As everywhere in the field a *request* of a metric is one text: a call with three texts counts three.
No label and no log field ever holds a text, an address or a key.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any, Final, TextIO

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

METRICS_CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
LOGGER_NAME: Final = "malgil"

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_RATIOS: Final = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Telemetry:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        model = ("model_name",)
        with_outcome = ("model_name", "outcome")
        self.num_requests_waiting = Gauge(
            "malgil_num_requests_waiting", "Texts that wait for a slot.", registry=registry
        )
        self.num_requests_running = Gauge("malgil_num_requests_running", "Texts that run now.", registry=registry)
        self.request_queue_time_seconds = Histogram(
            "malgil_request_queue_time_seconds",
            "Wait for a slot, by text that got one.",
            model,
            registry=registry,
            buckets=_SECONDS,
        )
        self.request_inference_time_seconds = Histogram(
            "malgil_request_inference_time_seconds",
            "Run of a batch, by its outcome: answered, or the type of its error.",
            with_outcome,
            registry=registry,
            buckets=_SECONDS,
        )
        self.time_to_first_token_seconds = Histogram(
            "malgil_time_to_first_token_seconds",
            "From arrival to the first token, by answered text; one that is not streamed has all its tokens at once.",
            model,
            registry=registry,
            buckets=_SECONDS,
        )
        self.e2e_request_latency_seconds = Histogram(
            "malgil_e2e_request_latency_seconds",
            "From arrival to the answer, by call that generates and its outcome: answered, or the type of its error.",
            with_outcome,
            registry=registry,
            buckets=_SECONDS,
        )
        self.e2e_score_latency_seconds = Histogram(
            "malgil_e2e_score_latency_seconds",
            "From arrival to the answer, by call that scores and its outcome: answered, or the type of its error.",
            with_outcome,
            registry=registry,
            buckets=_SECONDS,
        )
        self.prompt_tokens = Counter("malgil_prompt_tokens", "Source tokens read.", model, registry=registry)
        self.generation_tokens = Counter(
            "malgil_generation_tokens", "New tokens of all returned hypotheses.", model, registry=registry
        )
        self.request_success = Counter(
            "malgil_request_success",
            "Texts answered, by the finish reason of the best hypothesis.",
            ("model_name", "finished_reason"),
            registry=registry,
        )
        self.scored_targets = Counter("malgil_scored_targets", "Targets scored.", model, registry=registry)
        self.scored_tokens = Counter("malgil_scored_tokens", "Tokens of scored targets.", model, registry=registry)
        self.request_failure = Counter(
            "malgil_request_failure", "Calls answered with an error.", ("error_type",), registry=registry
        )
        self.batch_size = Histogram("malgil_batch_size", "Rows of a batch.", model, registry=registry, buckets=_ROWS)
        self.batch_padding_ratio = Histogram(
            "malgil_batch_padding_ratio",
            "Share of a batch's source positions that is padding.",
            model,
            registry=registry,
            buckets=_RATIOS,
        )

        self.tokenizer_mismatch = Counter(
            "malgil_tokenizer_mismatch",
            "Texts, of those compared, whose tokens graph and gateway see differently.",
            model,
            registry=registry,
        )

    def count_failure(self, error_type: str) -> None:
        """Count one call that is answered with an error; transports do so where they write the error."""
        self.request_failure.labels(error_type).inc()

    def render(self) -> bytes:
        """The metrics in Prometheus' text format (``METRICS_CONTENT_TYPE``)."""
        return generate_latest(self.registry)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, event, and the fields given to ``log_event``."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON; exceptions of our own code come with their traceback."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != LOGGER_NAME:
            line["logger"] = record.name
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str, stream: TextIO | None = None, loggers: Iterable[str] = (LOGGER_NAME,)) -> None:
    """Write ``loggers`` as JSON lines of at least ``level`` to ``stream`` (stderr by default), and nowhere else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in loggers:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False


def log_event(event: str, level: int = logging.INFO, *, error: BaseException | None = None, **fields: Any) -> None:
    """Log one event with its fields (numbers, names, request ids; never texts)."""
    logging.getLogger(LOGGER_NAME).log(level, event, extra={"fields": fields}, exc_info=error)
