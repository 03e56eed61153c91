from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import service_load
from benchmarks.http_load import Exchange
from benchmarks.peers.served import Running
from benchmarks.service_load import MIXES, Asked, FirstAnswers, measure, percentiles, requests, sentences


def answering(text: str) -> bytes:
    return json.dumps({"outputs": [{"generated_text": text}]}).encode()


def test_sentences_of_the_first_column_once(tmp_path: Path) -> None:
    data = tmp_path / "pairs.tsv"
    data.write_text("Stop!\tArrête !\nStop!\tStop !\nGo.\tVa !\n", encoding="utf-8")

    assert sentences(data) == ["Stop!", "Go."]


def test_requests_are_the_same_every_time_and_hold_every_text_as_often() -> None:
    texts = [f"text {number}" for number in range(50)]
    asked = requests(texts, MIXES["mixed"], count=1000)
    fields = [json.loads(each.data.partition(b"\r\n\r\n")[2]) for each in asked]

    assert asked == requests(texts, MIXES["mixed"], count=1000)
    assert {each["inputs"] for each in fields[:50]} == set(texts)
    assert set(Counter(each["inputs"] for each in fields).values()) == {20}
    parameters = [each["parameters"] for each in fields]
    for share, wanted in MIXES["mixed"]:
        assert parameters.count(wanted) / 1000 == pytest.approx(share / 100, abs=0.05)
    assert [each.key is None for each in asked] == ["do_sample" in each for each in parameters]
    assert len({each.data for each in asked[:50]}) == 50


def test_answers_are_compared_with_the_first_but_where_chance_decides() -> None:
    first = FirstAnswers()
    asked = [Asked(b"", "one"), Asked(b"", "two"), Asked(b"", None)]

    def same(*texts: str) -> float:
        return first.same(asked, [Exchange(index, 0.0, 1.0, answering(text)) for index, text in enumerate(texts)])

    assert same("un", "deux", "?") == 1.0
    assert same("un", "2", "!") == 0.5
    assert same("un", "deux", "", "1", "deux") == 0.75  # requests begin anew behind the last


def test_percentiles_are_values() -> None:
    assert percentiles([5.0]) == (5.0, 5.0, 5.0)
    assert percentiles([float(value) for value in range(200, 0, -1)]) == (100.0, 190.0, 198.0)


def test_a_measurement_counts_what_was_answered_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_load, "SETTLING_S", 0.2)
    pause = 0.02

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(2)
                await asyncio.sleep(pause)
                body = answering("oui")
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()

    async def measured() -> service_load.Measured:
        asked = [Asked(service_load.post("/", {}), "key")]
        async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
            running = Running(server.sockets[0].getsockname()[1], [os.getpid()])
            found = await measure("it", running, asked, clients=4, seconds=0.5, first=FirstAnswers())
            await asyncio.sleep(0.05)
        return found

    found = asyncio.run(measured())

    assert 0 < found.sentences <= 4 * (0.5 / pause + 1)
    assert found.sentences_per_s == pytest.approx(found.sentences / 0.5, rel=0.5)
    assert 1e3 * pause <= found.p50_ms <= found.p95_ms <= found.p99_ms
    assert found.cpu_ms > 0.0
    assert found.peak_mb > 1.0
    assert found.same == 1.0
