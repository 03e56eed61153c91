"""Pairs: what is read and refused, and how they are split."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.text import pairs as pairs_module
from model_export.text.pairs import DataError, TextPairs, expand_files, read_pairs, split_pairs

# --- reading ----------------------------------------------------------------------------------------------------------


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_pairs_of_several_files_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b.tsv", b"c\tC\n")
    write(tmp_path / "a.tsv", "a\tA\r\né\tÉ".encode())  # Windows line ends, no newline at the end

    pairs = read_pairs([str(tmp_path / "*.tsv")])

    assert (pairs.sources, pairs.targets, pairs.malformed) == (["a", "é", "c"], ["A", "É", "C"], 0)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", b"\xef\xbb\xbfa\tA\n")
    write(tmp_path / "b.tsv", b"\xef\xbb\xbfb\tB\n\xef\xbb\xbfc\tC\n")  # of the second line it is text

    assert read_pairs([str(tmp_path / "*.tsv")]).sources == ["a", "b", "\ufeffc"]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", b"a\tA\n")

    assert expand_files([path, str(tmp_path / "*.tsv")]) == [Path(path)]


@pytest.mark.parametrize("pattern", ["missing.tsv", "*.csv"])
def test_a_pattern_that_matches_nothing_is_named(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(DataError, match=r"(missing\.tsv|\*\.csv): no such file"):
        read_pairs([str(tmp_path / pattern)])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"one field", "not 1 field"),
        (b"a\tb\tc", "not 3 field"),
        (b"", "not 1 field"),
        (b"a\t ", "the target is empty"),
        (b"\tb", "the source is empty"),
        (b"a\t\xff", "not UTF-8 at byte 3"),
    ],
)
def test_a_malformed_line_is_named_or_counted(tmp_path: Path, line: bytes, problem: str) -> None:
    path = write(tmp_path / "a.tsv", b"a\tA\n" + line + b"\nb\tB\n")

    with pytest.raises(DataError, match=rf"a\.tsv:2: .*{problem}"):
        read_pairs([path])
    skipped = read_pairs([path], skip_malformed=True)
    assert (skipped.sources, skipped.malformed) == (["a", "b"], 1)


def test_no_pairs_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pairs"):
        read_pairs([write(tmp_path / "a.tsv", b"nothing\n")], skip_malformed=True)


def test_lines_are_counted_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "_LINES_TOLD", 2)
    told: list[tuple[str, int, int]] = []

    read_pairs([write(tmp_path / "a.tsv", b"a\tA\n" * 5)], on_progress=lambda *stage: told.append(stage))

    assert told == [("reading a.tsv", done, 5) for done in (0, 2, 4)]


# --- splitting --------------------------------------------------------------------------------------------------------


def test_a_split_keeps_every_pair_and_parts_the_sources() -> None:
    pairs = TextPairs([f"s{n % 40}" for n in range(100)], [f"t{n}" for n in range(100)])

    train, valid = split_pairs(pairs, 0.2, seed=1)

    assert not set(train.sources) & set(valid.sources)
    assert sorted(train.targets + valid.targets) == sorted(pairs.targets)
    assert 20 <= len(valid) <= 22  # a source has at most three pairs
    assert split_pairs(pairs, 0.2, seed=1) == (train, valid)
    assert split_pairs(pairs, 0.2, seed=2) != (train, valid)


def test_a_split_leaves_neither_side_empty() -> None:
    train, valid = split_pairs(TextPairs(["a", "b"], ["A", "B"]), 0.99, seed=1)
    assert (len(train), len(valid)) == (1, 1)

    with pytest.raises(DataError, match="two different source"):
        split_pairs(TextPairs(["a", "a"], ["A", "B"]), 0.5, seed=1)
