from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.engine.labels import LARGEST_WEIGHT, LabelsError, LabelsFile, parse_labels

POLL_S = 0.01
FILE = """
en-fr:
  stable: 3  # a comment
  canary: {3: 90, 4: 9.5}
  default: 3
"2024":
  _next.1-b: {5: 0, 6: 1}
"""


def test_labels_are_read_by_model() -> None:
    assert parse_labels(FILE) == {
        "en-fr": {"stable": {3: 1}, "canary": {3: 90, 4: 9.5}, "default": {3: 1}},
        "2024": {"_next.1-b": {5: 0, 6: 1}},
    }
    assert parse_labels("{}") == {}


def test_the_documentations_example_is_read() -> None:
    text = (Path(__file__).parents[3] / "docs" / "versions.md").read_text("utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert parse_labels(example) == {"en-fr": {"stable": {3: 1}, "canary": {3: 90, 4: 10}, "default": {3: 1}}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file must have models"),
        ("# nothing\n", "the file must have models"),
        ("- a", "the file must have models"),
        ("a: {b: 1}}", "line 1: "),
        ("a:\n  b: 1\n  c: [", "line 3: "),
        ("a: {b: 1, c: 2, b: 3}", "line 1: a key is there twice"),
        ("a: {b: 1}\na: {c: 1}", "line 1: a key is there twice"),
        ("a: {b: !!python/object/apply:os.getcwd []}", "line 1: could not determine a constructor"),
        ("a: {b: 2024-99-99}", "this is no YAML"),
        pytest.param("[" * 5000, "this is no YAML", id="deep"),
        ("a: {b: \x07}", "this is no YAML"),
        ("a: {b: !!int ''}", "this is no YAML"),
        ("a: {b: !!bool maybe}", "this is no YAML"),
        ("a: {b: !!timestamp soon}", "this is no YAML"),
        ("1: {b: 1}", "1 must be the name of a model: write it in quotes"),
        ("a:", "a must have labels"),
        ("a: 3", "a must have labels"),
        ("a: {3: 3}", "a: 3 must be a label"),
        ("a: {'3': 3}", "a: '3' must be a label"),
        ("a: {yes: 3}", "a: True must be a label: .* quotes"),
        ("a: {b c: 3}", "a: 'b c' must be a label"),
        ("a: {'b\\n': 3}", "a: .* must be a label"),
        (f"a: {{{'b' * 65}: 3}}", "a: .* must be a label"),
        ("a: {b: '3'}", "a: b must have a version such as 3"),
        ("a: {b: 3.0}", "a: b must have a version"),
        ("a: {b: true}", "a: b must have a version"),
        ("a: {b: [3]}", "a: b must have a version"),
        ("a: {b: 0}", "a: b: 0 must be the number of a version"),
        (f"a: {{b: {2**63}}}", "a: b: .* must be the number of a version"),
        ("a: {b: {'3': 1}}", "a: b: '3' must be the number of a version"),
        ("a: {b: {true: 1}}", "a: b: True must be the number of a version"),
        ("a: {b: {3: -1}}", "a: b: the weight of 3 must be a number from 0"),
        ("a: {b: {3: .nan}}", "the weight of 3"),
        ("a: {b: {3: .inf}}", "the weight of 3"),
        (f"a: {{b: {{3: {LARGEST_WEIGHT + 1}}}}}", "the weight of 3"),
        ("a: {b: {3: '1'}}", "the weight of 3"),
        ("a: {b: {3: 0, 4: 0}}", "a: b: a version must have a weight above 0"),
        ("a: {b: {}}", "a: b: a version must have a weight above 0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(LabelsError, match=message) as refused:
        parse_labels(text)
    assert "\n" not in str(refused.value)


def watched(path: Path, test: Callable[[LabelsFile, asyncio.Queue[None]], Awaitable[None]]) -> None:
    """Run ``test`` while the file is watched; the queue gets an item whenever it has changed."""

    async def main() -> None:
        file = LabelsFile(path, POLL_S)
        await file.read()
        changes: asyncio.Queue[None] = asyncio.Queue()
        watching = asyncio.create_task(file.watch(lambda: changes.put_nowait(None)))
        try:
            await asyncio.wait_for(test(file, changes), 20)
        finally:
            watching.cancel()

    asyncio.run(main())


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


def _replace(path: Path, text: str) -> None:
    """As editors do; size and time of the last change may even be as before."""
    status = path.stat()
    new = path.with_suffix(".new")
    new.write_text(text, "utf-8")
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.rename(path)


@pytest.mark.parametrize("change", [_write, _replace])
def test_a_changed_file_is_read_again(tmp_path: Path, change: Callable[[Path, str], None]) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text("a: {b: 1}", "utf-8")

    async def test(file: LabelsFile, changes: asyncio.Queue[None]) -> None:
        assert file.labels == {"a": {"b": {1: 1}}}
        change(path, "a: {b: 2}")
        await changes.get()
        assert file.labels == {"a": {"b": {2: 1}}}
        assert file.error is None

    watched(path, test)


def test_a_mounted_config_map_is_followed(tmp_path: Path) -> None:
    """Kubernetes swaps a symbolic link ``..data`` to a folder, to which the file itself is a link."""
    for name, version in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "labels.yaml").write_text(f"a: {{b: {version}}}", "utf-8")
    (tmp_path / "..data").symlink_to("one")
    path = tmp_path / "labels.yaml"
    path.symlink_to("..data/labels.yaml")

    async def test(file: LabelsFile, changes: asyncio.Queue[None]) -> None:
        (tmp_path / "..data_tmp").symlink_to("two")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        await changes.get()
        assert file.labels == {"a": {"b": {2: 1}}}

    watched(path, test)


def test_what_cannot_be_read_changes_nothing_is_told_once_and_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text("a: {b: 1}", "utf-8")

    async def test(file: LabelsFile, changes: asyncio.Queue[None]) -> None:
        path.write_text("a: {b: x}", "utf-8")
        await changes.get()
        assert file.labels == {"a": {"b": {1: 1}}}
        assert file.error == f"labels in {path}: a: b must have a version such as 3, or {{3: 90, 4: 10}}"
        await asyncio.sleep(10 * POLL_S)
        path.unlink()
        await changes.get()
        assert file.error == f"labels in {path}: No such file or directory"
        await asyncio.sleep(10 * POLL_S)
        assert changes.empty()
        path.write_text("a: {b: 1}", "utf-8")
        await changes.get()
        assert file.error is None

    with caplog.at_level("ERROR", logger="malgil"):
        watched(path, test)
    assert len(caplog.records) == 2


def test_a_file_that_is_still_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text("a: {b: 1}", "utf-8")

    async def test(file: LabelsFile, changes: asyncio.Queue[None]) -> None:
        with path.open("w", encoding="utf-8") as stream:
            for version in range(2, 40):
                stream.write(f"a{version}: {{b: {version}}}\n")
                stream.flush()
                await asyncio.sleep(POLL_S / 3)
        assert len(file.labels) in (1, 38)
        await changes.get()
        assert len(file.labels) == 38

    watched(path, test)


def test_a_listener_that_fails_does_not_end_the_watch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text("a: {b: 1}", "utf-8")

    async def main() -> None:
        file = LabelsFile(path, POLL_S)
        await file.read()
        watching = asyncio.create_task(file.watch(lambda: 1 / 0))
        for version in (2, 3):
            path.write_text(f"a: {{b: {version}}}", "utf-8")
            while file.labels != {"a": {"b": {version: 1}}}:
                await asyncio.sleep(POLL_S)
        watching.cancel()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert {record.exc_info[0] for record in caplog.records if record.exc_info} == {ZeroDivisionError}


@pytest.mark.parametrize("content", [None, b"a: {b: x}", b"\xff\xfe\xfd"])
def test_a_start_with_a_file_that_cannot_be_read_fails(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "labels.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelsError, match=rf"labels in {path}: .+"):
        asyncio.run(LabelsFile(path, POLL_S).read())
