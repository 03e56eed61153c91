"""Where answers go, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

Work = Mapping[str, Any]
"""What the answers depend on beside the inputs: names of options and their values, as JSON has them."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a file of answers is."""

    work: Work
    lines: int = 0  # of the input
    asked: int = 0  # of these, those that are not empty
    sha256: str = ""  # of them
    bytes: int = 0  # of the answers
    versions: tuple[str, ...] = ()  # of models, that gave them

    def after(self, lines: int, asked: int, sha256: str, length: int, version: str | None) -> Progress:
        """How far it is when so much more is done."""
        is_known = version is None or version in self.versions
        return Progress(
            self.work,
            self.lines + lines,
            self.asked + asked,
            sha256,
            self.bytes + length,
            self.versions if is_known else (*self.versions, version),  # type: ignore[arg-type]  # it is not None
        )


class Answers(Protocol):
    """Where answers go, one after the other."""

    progress: Progress

    def skip_done(self, lines: Iterator[str]) -> None:
        """Take the lines that are done from ``lines``.

        Raises:
            InvalidRequest: they are not those whose answers are there.
        """

    def append(self, lines: Sequence[str], asked: int, answers: bytes, version: str | None) -> None:
        """The answers to the next ``lines``; ``version`` of a model gave them, unless nothing was ``asked``."""

    def finish(self) -> None:
        """All is done."""


class AnswersStream:
    """Answers that nobody can go on with: of a pipe or a terminal."""

    def __init__(self, stream: IO[bytes], work: Work) -> None:
        self._stream = stream
        self.progress = Progress(work)

    def skip_done(self, lines: Iterator[str]) -> None:
        """As in ``Answers``: none are."""

    def append(self, lines: Sequence[str], asked: int, answers: bytes, version: str | None) -> None:
        """As in ``Answers``; they are seen at once."""
        self._stream.write(answers)
        self._stream.flush()
        self.progress = self.progress.after(len(lines), asked, "", len(answers), version)

    def finish(self) -> None:
        """As in ``Answers``."""
