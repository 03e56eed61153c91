"""What a command reads: one input a line, in UTF-8, never all of them at once."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from service.errors import InvalidRequest

STANDARD: Final = Path("-")
"""The name of standard input and of standard output."""
_CHUNK: Final = 1 << 20
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Lines:
    """Where inputs come from."""

    read: Callable[[], Iterator[str]]
    """Their lines, without what ends them. Raises InvalidRequest where one is no UTF-8."""
    name: Callable[[int], str]
    """What messages call the n-th, counted from 1."""
    count: Callable[[], int | None] = lambda: None
    """How many there are, if that can be known before they are read."""
    is_typed: bool = False
    """Somebody types them, and waits for the answer of each."""


def of_arguments(texts: Sequence[str], name: Callable[[int], str]) -> Lines:
    """Texts of the command line, which may have line ends in them."""

    def read() -> Iterator[str]:
        for place, text in enumerate(texts, 1):
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                raise InvalidRequest(f"{name(place)} is not UTF-8")
            yield text

    return Lines(read, name, lambda: len(texts))


def of_file(path: Path | None) -> Lines:
    """Lines of a file; of standard input if ``path`` is none or "-"."""
    if path is None or path == STANDARD:

        def standard() -> IO[bytes]:  # sys.stdin cannot be closed at the end while a thread waits for its next line
            return open(0, "rb", closefd=False)

        return Lines(lambda: _lines(standard, _standard_name), _standard_name, is_typed=sys.stdin.isatty())
    file = path
    if not os.access(file, os.R_OK) or file.is_dir():
        file.read_bytes()  # says why, before anything else is done; what can be read is not opened, as a pipe is once

    def name(place: int) -> str:
        return f"line {place} of {path}"

    return Lines(lambda: _lines(lambda: file.open("rb"), name), name, lambda: _count(file))


def _standard_name(place: int) -> str:
    return f"line {place}"


def _lines(opened: Callable[[], IO[bytes]], name: Callable[[int], str]) -> Iterator[str]:
    with opened() as file:
        for place, raw in enumerate(file, 1):
            line = raw.removesuffix(b"\n").removesuffix(b"\r")
            if place == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise InvalidRequest(
                    f"{name(place)} is not UTF-8: byte {line[error.start]:#04x} at {error.start + 1}; convert it first"
                ) from error


def _count(path: Path) -> int | None:
    """Lines of a file, the last one with or without its end; None if it is a pipe."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        return None
    count, last = 0, b"\n"
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            count += chunk.count(b"\n")
            last = chunk[-1:]
    return count + (last != b"\n")
