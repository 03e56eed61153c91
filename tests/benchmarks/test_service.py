from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import service, service_load
from benchmarks.peers.served import SERVED, Running, Setup
from benchmarks.service import main, medians, table, verdicts
from benchmarks.service_load import Measured


def measured(contender: str, clients: int, rate: float, p99_ms: float = 50.0) -> Measured:
    return Measured(contender, clients, int(10 * rate), rate, 10.0, 40.0, p99_ms, 2.0, 0.1, 300.0, 1.0)


def test_medians_over_the_rounds() -> None:
    rounds = [measured("hf", 8, rate) for rate in (1.0, 7.0, 2.0)] + [measured("hf", 1, 5.0)]

    found = medians(rounds)

    assert list(found) == [("hf", 8), ("hf", 1)]
    assert found["hf", 8]["sentences_per_s"] == 2.0
    assert table(found).row_count == 2


def test_floors_are_held_against_the_best_of_the_others() -> None:
    slow = [measured("ct2-documented", 32, 50.0, 10.0), measured("ct2-batched", 32, 100.0, 60.0)]

    def told(*ours: Measured) -> list[str]:
        return verdicts(medians([*slow, *ours]))

    assert told() == []
    (met,) = told(measured("embedded", 32, 125.0, 60.0))
    assert met.startswith("32 clients: embedded 1.25 times the sentences/s of ct2-batched (floor 1.2, stretch 2)")
    (slower,) = told(measured("embedded", 32, 115.0, 60.0))
    (late,) = told(measured("embedded", 32, 125.0, 61.0))
    for missed in (slower, late):
        assert missed.startswith("[bold red]")
    assert told(measured("embedded", 8, 999.0)) == []
    both = told(measured("embedded", 32, 125.0, 60.0), measured("tf-serving", 32, 100.0))
    assert both == [met, "[bold red]32 clients: tf-serving 0.80 times the sentences/s of embedded (floor 0.85)[/]"]


def test_a_comparison_of_real_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours with its fake model, in place of two contenders."""

    @contextmanager
    def scripted(setup: Setup) -> Iterator[Running]:
        arguments = ("serve", "--backend", "scripted", "--port", 0, "--grpc-port", -1)
        with setup.start("service", *arguments) as server:
            yield Running(server.port, [server.pid])

    for name in ("embedded", "hf"):
        monkeypatch.setitem(SERVED, name, scripted)  # type: ignore[attr-defined]
    monkeypatch.setattr(service_load, "SETTLING_S", 0.1)
    monkeypatch.setattr(service, "WARM_UP_REQUESTS", 20)
    data, out = tmp_path / "data.tsv", tmp_path / "out.json"
    data.write_text("the one\tun\nyes it is\toui\n", encoding="utf-8")
    arguments = f"--data {data} --contenders embedded,hf --clients 1,4 --rounds 1 --seconds 0.3 --json {out}"
    monkeypatch.setattr(sys, "argv", ["service", *arguments.split()])

    main()

    found = json.loads(out.read_text())
    assert found["arguments"]["clients"] == [1, 4]
    assert set(found["versions"]) >= {"fastapi", "uvicorn"}
    assert [(one["contender"], one["clients"]) for one in found["measured"]] == [
        ("embedded", 1),
        ("embedded", 4),
        ("hf", 1),
        ("hf", 4),
    ]
    for one in found["measured"]:
        assert one["sentences"] > 0
        assert one["cpu_ms"] > 0.0
        assert one["same"] == 1.0


def test_contenders_that_there_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["service", "--data", "none.tsv", "--contenders", "embedded,marian"])
    with pytest.raises(SystemExit, match="no contender marian: there are embedded, tf-serving, ct2-documented"):
        main()
