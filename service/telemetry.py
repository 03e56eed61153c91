"""What the server tells about itself: Prometheus metrics and JSON log lines.

Metrics live in a registry of their own, one for each ``Telemetry``, so that two servers in one process do not mix.
As everywhere in the field a *request* of a metric is one text: a call with three texts counts three.
No label and no log field ever holds a text, an address or a key.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, TextIO, TypeAlias, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic_core import to_json

METRICS_CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
LOGGER_NAME: Final = "malgil"

M = TypeVar("M", Counter, Histogram)
VersionStates: TypeAlias = Callable[[], Iterable[tuple[str, int, str]]]
"""The versions there are now: model, number, state."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_RATIOS: Final = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Family(Generic[M]):
    """A metric with labels. It keeps its children: the library looks for one at every call, which takes it 1 µs."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}

    def labels(self, *values: str) -> M:
        """The child with these values of the labels."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


class _VersionStateCollector(Collector):
    """Read from the server at each look, since versions come and go."""

    def __init__(self, versions: VersionStates) -> None:
        self._versions = versions

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """As the library asks."""
        family = GaugeMetricFamily(
            "malgil_model_version_state",
            "1 for the state that a version is in.",
            labels=("model_name", "model_version", "state"),
        )
        for name, number, state in self._versions():
            family.add_metric((name, str(number), state), 1)
        yield family


class Telemetry:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def gauge(name: str, told: str) -> Gauge:
            return Gauge(f"malgil_{name}", told, registry=registry)

        def counter(name: str, told: str, *labels: str) -> Family[Counter]:
            return Family(Counter(f"malgil_{name}", told, labels, registry=registry))

        def histogram(name: str, told: str, *labels: str, buckets: Sequence[float] = _SECONDS) -> Family[Histogram]:
            return Family(Histogram(f"malgil_{name}", told, labels, registry=registry, buckets=buckets))

        model, of_outcome = "model_name", "outcome"
        self.num_requests_waiting = gauge("num_requests_waiting", "Texts that wait for a slot.")
        self.num_requests_running = gauge("num_requests_running", "Texts that run now.")
        self.request_queue_time_seconds = histogram(
            "request_queue_time_seconds", "Wait for a slot, by text that got one.", model
        )
        self.request_inference_time_seconds = histogram(
            "request_inference_time_seconds",
            "Run of a batch, by its outcome: answered, or the type of its error.",
            model,
            of_outcome,
        )
        self.time_to_first_token_seconds = histogram(
            "time_to_first_token_seconds",
            "From arrival to the first token, by answered text; one that is not streamed has all its tokens at once.",
            model,
        )
        self.e2e_request_latency_seconds = histogram(
            "e2e_request_latency_seconds",
            "From arrival to the answer, by call that generates and its outcome: answered, or the type of its error.",
            model,
            of_outcome,
        )
        self.e2e_score_latency_seconds = histogram(
            "e2e_score_latency_seconds",
            "From arrival to the answer, by call that scores and its outcome: answered, or the type of its error.",
            model,
            of_outcome,
        )
        self.prompt_tokens = counter("prompt_tokens", "Source tokens read.", model)
        self.generation_tokens = counter("generation_tokens", "New tokens of all returned hypotheses.", model)
        self.request_success = counter(
            "request_success", "Texts answered, by the finish reason of the best hypothesis.", model, "finished_reason"
        )
        self.scored_targets = counter("scored_targets", "Targets scored.", model)
        self.scored_tokens = counter("scored_tokens", "Tokens of scored targets.", model)
        self.request_failure = counter("request_failure", "Calls answered with an error.", "error_type")
        self.batch_size = histogram("batch_size", "Rows of a batch.", model, buckets=_ROWS)
        self.batch_padding_ratio = histogram(
            "batch_padding_ratio", "Share of a batch's source positions that is padding.", model, buckets=_RATIOS
        )
        self.tokenizer_mismatch = counter(
            "tokenizer_mismatch", "Texts, of those compared, whose tokens graph and gateway see differently.", model
        )

    def count_failure(self, error_type: str) -> None:
        """Count one call that is answered with an error; transports do so where they write the error."""
        self.request_failure.labels(error_type).inc()

    def show_versions(self, versions: VersionStates) -> None:
        """Have the metrics tell the state of every version, as ``versions`` gives them whenever they are read."""
        self.registry.register(_VersionStateCollector(versions))

    def render(self) -> bytes:
        """The metrics in Prometheus' text format (``METRICS_CONTENT_TYPE``)."""
        return generate_latest(self.registry)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, event, and the fields given to ``log_event``."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON; exceptions of our own code come with their traceback."""
        line: dict[str, Any] = {
            "time": f"{_utc(int(record.created))}.{int(record.created % 1 * 1000):03}+00:00",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != LOGGER_NAME:
            line["logger"] = record.name
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return to_json(line, fallback=str, inf_nan_mode="null").decode()


@functools.lru_cache(maxsize=1)
def _utc(seconds: int) -> str:
    """Asked again and again within a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def configure_logging(level: str, stream: TextIO | None = None, loggers: Iterable[str] = (LOGGER_NAME,)) -> None:
    """Write ``loggers`` as JSON lines of at least ``level`` to ``stream`` (stderr by default), and nowhere else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in loggers:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells, every one would ask


def log_event(event: str, level: int = logging.INFO, *, error: BaseException | None = None, **fields: Any) -> None:
    """Log one event with its fields (numbers, names, request ids; never texts)."""
    if not _LOGGER.isEnabledFor(level):
        return
    # Made here, because ``Logger.log`` would first look for the line of code that it comes from, which nobody is told.
    raised = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord(LOGGER_NAME, level, "", 0, event, None, raised)
    record.fields = fields
    _LOGGER.handle(record)


_LOGGER: Final = logging.getLogger(LOGGER_NAME)
