from __future__ import annotations

import io
import json
import logging
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry import LOGGER_NAME, Telemetry, configure_logging, log_event


@pytest.fixture
def stream() -> io.StringIO:
    """Where the log goes at level info, as long as the test runs."""
    logger = logging.getLogger(LOGGER_NAME)
    before = logger.handlers, logger.level, logger.propagate
    stream = io.StringIO()
    configure_logging("info", stream)
    yield stream
    logger.handlers, logger.level, logger.propagate = before


def test_metrics_have_the_fields_names() -> None:
    families = {family.name for family in text_string_to_metric_families(Telemetry().render().decode())}
    assert families >= {
        f"malgil_{stem}"
        for stem in (
            "num_requests_running",
            "num_requests_waiting",
            "request_queue_time_seconds",
            "time_to_first_token_seconds",
            "e2e_request_latency_seconds",
            "prompt_tokens",
            "generation_tokens",
            "request_success",
            "e2e_score_latency_seconds",
            "scored_targets",
            "scored_tokens",
            "batch_size",
            "batch_padding_ratio",
        )
    }


def test_servers_in_one_process_count_apart() -> None:
    one, other = Telemetry(), Telemetry()
    one.count_failure("timeout")
    assert one.registry.get_sample_value("malgil_request_failure_total", {"error_type": "timeout"}) == 1
    assert other.registry.get_sample_value("malgil_request_failure_total", {"error_type": "timeout"}) is None


def test_the_state_of_versions_is_told_as_it_is_now() -> None:
    telemetry = Telemetry()
    states = {1: "ready", 2: "loading"}
    telemetry.show_versions(lambda: [("en-fr", number, state) for number, state in states.items()])

    def told(version: str, state: str) -> float | None:
        labels = {"model_name": "en-fr", "model_version": version, "state": state}
        return telemetry.registry.get_sample_value("malgil_model_version_state", labels)

    assert (told("1", "ready"), told("2", "loading"), told("2", "ready")) == (1, 1, None)
    states[2] = "ready"
    del states[1]
    assert (told("1", "ready"), told("2", "loading"), told("2", "ready")) == (None, None, 1)


def test_a_child_is_made_once_and_counts_for_its_labels_alone() -> None:
    telemetry = Telemetry()
    for model, texts in (("a", 2), ("b", 3), ("a", 4)):
        telemetry.scored_targets.labels(model).inc(texts)
    assert telemetry.scored_targets.labels("a") is telemetry.scored_targets.labels("a")
    counts = [
        telemetry.registry.get_sample_value("malgil_scored_targets_total", {"model_name": name}) for name in "abc"
    ]
    assert counts == [6, 3, None]


def test_an_event_is_one_line_of_json(stream: io.StringIO) -> None:
    log_event("batch failed", logging.WARNING, model_name="말길", rows=3)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    line.pop("time")
    assert line == {"level": "warning", "event": "batch failed", "model_name": "말길", "rows": 3}


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (1_700_000_000.0625, "2023-11-14T22:13:20.062+00:00"),
        (1_700_000_000.9996, "2023-11-14T22:13:20.999+00:00"),
        (1_700_000_001.0, "2023-11-14T22:13:21.000+00:00"),
    ],
)
def test_the_time_is_told_in_utc_to_the_millisecond(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, seconds: float, told: str
) -> None:
    monkeypatch.setattr(time, "time", lambda: seconds)
    monkeypatch.setattr(time, "time_ns", lambda: int(seconds * 1e9))  # Python 3.13 asks this
    log_event("tick")
    assert json.loads(stream.getvalue())["time"] == told


def test_what_json_has_no_form_for_is_spelled(stream: io.StringIO) -> None:
    log_event("odd", path=Path("/a"), share=float("nan"), error_seen=ValueError("x"))
    line = json.loads(stream.getvalue())
    assert (line["path"], line["share"], line["error_seen"]) == ("/a", None, "x")


def test_errors_come_with_their_traceback_on_the_same_line(stream: io.StringIO) -> None:
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError as error:
        log_event("unexpected", logging.ERROR, error=error)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert "ZeroDivisionError: a bug" in json.loads(lines[0])["traceback"]


def test_less_severe_events_are_left_out(stream: io.StringIO) -> None:
    log_event("detail", logging.DEBUG)
    assert stream.getvalue() == ""
