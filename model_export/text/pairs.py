"""Text pairs: read, checked and split. Nothing here needs TensorFlow."""

from __future__ import annotations

import codecs
import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_export.config import UserError
from model_export.text.progress import OnProgress, silent

_LINES_TOLD = 10_000
"""Progress is told after so many lines."""


class DataError(UserError):
    """Files or lines that cannot be used; the message names file and line."""


@dataclass(frozen=True)
class TextPairs:
    """Source and target sentences, in the order of the files."""

    sources: list[str]
    targets: list[str]
    malformed: int = 0
    """Lines that were skipped."""

    def __len__(self) -> int:
        return len(self.sources)


def expand_files(patterns: Sequence[str]) -> list[Path]:
    """Files named by paths or globs (``**`` allowed), each once, globs in sorted order.

    Raises:
        DataError: a path or pattern that matches no file.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        matches = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        found = [Path(match) for match in matches if Path(match).is_file()]
        if not found:
            raise DataError(f"{pattern}: no such file")
        files.update(dict.fromkeys(found))
    return list(files)


def read_pairs(patterns: Sequence[str], skip_malformed: bool = False, on_progress: OnProgress = silent) -> TextPairs:
    """Read tab-separated files: one pair a line, exactly two non-empty fields, UTF-8 (a byte order mark is none of it).

    Raises:
        DataError: no such file, no pair at all, or (unless ``skip_malformed``) a malformed line.
    """
    sources, targets, malformed = [], [], 0
    for path in expand_files(patterns):
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).removesuffix(b"\n").split(b"\n")
        for number, line in enumerate(lines, start=1):
            if number % _LINES_TOLD == 1:
                on_progress(f"reading {path.name}", number - 1, len(lines))
            try:
                source, target = _parse_line(line)
            except DataError as error:
                if not skip_malformed:
                    raise DataError(f"{path}:{number}: {error}") from error
                malformed += 1
                continue
            sources.append(source)
            targets.append(target)
    if not sources:
        raise DataError(f"{', '.join(patterns)}: no pairs")
    return TextPairs(sources, targets, malformed)


def _parse_line(line: bytes) -> tuple[str, str]:
    try:
        fields = line.decode("utf-8").removesuffix("\r").split("\t")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start + 1} of the line") from error
    if len(fields) != 2:
        raise DataError(f"source and target separated by one tab are expected, not {len(fields)} field(s)")
    for name, text in zip(("source", "target"), fields, strict=True):
        if not text.strip():
            raise DataError(f"the {name} is empty")
    return fields[0], fields[1]


def split_pairs(pairs: TextPairs, valid_fraction: float, seed: int) -> tuple[TextPairs, TextPairs]:
    """Hold out about ``valid_fraction`` of the pairs; all pairs of one source sentence stay on one side.

    Returns:
        Training pairs and validation pairs, each in the given order; malformed lines are counted with the former.

    Raises:
        DataError: fewer than two different sources, which leave one side empty.
    """
    rows_of: dict[str, list[int]] = {}
    for row, source in enumerate(pairs.sources):
        rows_of.setdefault(source, []).append(row)
    if len(rows_of) < 2:
        raise DataError("a validation split needs at least two different source sentences")
    groups = list(rows_of.values())
    held_out: list[int] = []
    for group in np.random.default_rng(seed).permutation(len(groups))[:-1]:
        held_out += groups[group]
        if len(held_out) >= valid_fraction * len(pairs):
            break
    chosen = set(held_out)

    def pick(is_valid: bool) -> TextPairs:
        rows = [row for row in range(len(pairs)) if (row in chosen) == is_valid]
        malformed = 0 if is_valid else pairs.malformed
        return TextPairs([pairs.sources[row] for row in rows], [pairs.targets[row] for row in rows], malformed)

    return pick(False), pick(True)
