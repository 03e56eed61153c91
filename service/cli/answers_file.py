"""A file of answers that an interrupted run leaves so that the same command can go on with it.

Beside ``answers.txt`` there is ``answers.txt.resume`` until all is done: what was asked for, how many lines of the
input are done, a hash of them, and the length of the file at that point. What stands behind it is cut off before the
run goes on, so that it does not matter where it was killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, Final

from typing_extensions import Self

from service.cli.answers import Progress, Work
from service.errors import InvalidRequest

CHECKPOINT_S: Final = 1.0
"""As much work is lost by what cannot be caught, such as ``kill -9``."""


def progress_of(path: Path) -> Progress | None:
    """What is told beside the answers at ``path``, if anything."""
    beside = _beside(path)
    try:
        fields = json.loads(beside.read_bytes())
        return Progress(**{**fields, "versions": tuple(fields["versions"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidRequest(f"{beside} is damaged: --force starts from the beginning") from error


def is_resumable(path: Path) -> bool:
    """Whether answers at ``path`` can be gone on with: not those in a pipe or on a terminal."""
    return not path.exists() or stat.S_ISREG(path.stat().st_mode)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.resume")


class AnswersFile:
    """The answers, one after the other; as a context, what is left when it ends is whole."""

    def __init__(self, path: Path, work: Work, *, resume: bool, force: bool) -> None:
        """
        Raises:
            InvalidRequest: there are answers already, and neither ``resume`` nor ``force`` says what to do with them;
                or those there are were not made by this ``work``.
            OSError: it cannot be written.
        """
        self._path = path
        self._beside = _beside(path)
        self._is_new = not path.exists()
        self._file: IO[bytes] = path.open("ab+", buffering=0)
        self._is_begun = False  # until then it is as another run left it
        self._done = False
        try:
            self.progress = self._first_progress(work, resume=resume, force=force)
        except BaseException:
            self._file.close()
            raise
        self._begun_by = self.progress.versions
        self._hash = hashlib.sha256()
        self._told_at = time.monotonic()

    def _first_progress(self, work: Work, *, resume: bool, force: bool) -> Progress:
        path, start = self._path, Progress(work)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidRequest(f"another run writes {path} right now") from error
        length = os.fstat(self._file.fileno()).st_size
        if force:
            return start
        told = progress_of(path)
        if told is None:
            if not length:
                return start
            advice = (
                f"{path} has no {self._beside.name} beside it, so it is finished or not of this command"
                if resume
                else f"{path} exists"
            )
            raise InvalidRequest(f"{advice}: name another file, or overwrite it with --force")
        if not resume:
            raise InvalidRequest(f"{path} is unfinished: go on with --resume, or start from the beginning with --force")
        if differences := _differences(told.work, work):
            raise InvalidRequest(
                f"{path} was begun with other options ({'; '.join(differences)}): "
                "give those, or start from the beginning with --force"
            )
        if length < told.bytes:
            raise InvalidRequest(
                f"{path} has become shorter than its run left it: start from the beginning with --force"
            )
        return replace(told, work=work)

    def skip_done(self, lines: Iterator[str]) -> None:
        """As in ``Answers``."""
        for done in range(self.progress.lines):
            line = next(lines, None)
            if line is None:
                raise InvalidRequest(
                    f"{self._path} has the answers of {self.progress.lines} lines, and the input has only {done}"
                )
            self._hash.update(line.encode() + b"\0")
        if self.progress.lines and self._hash.hexdigest() != self.progress.sha256:
            raise InvalidRequest(
                f"{self._path} was begun with other inputs: the first {self.progress.lines} lines have changed; "
                "start from the beginning with --force"
            )

    def append(self, lines: Sequence[str], asked: int, answers: bytes, version: str | None) -> None:
        """As in ``Answers``.

        Raises:
            InvalidRequest: another version gave those that the file begins with.
        """
        if version is not None and self._begun_by and version not in self._begun_by:
            raise InvalidRequest(
                f"{self._path} was begun with {' and '.join(self._begun_by)}, and now {version} answers: "
                "name the former by --model and --version, or start from the beginning with --force"
            )
        self._begin()
        view = memoryview(answers)
        while view:
            view = view[self._file.write(view) :]
        self._hash.update(b"".join(line.encode() + b"\0" for line in lines))
        self.progress = self.progress.after(len(lines), asked, self._hash.hexdigest(), len(answers), version)
        if time.monotonic() - self._told_at >= CHECKPOINT_S:
            self._tell()

    def finish(self) -> None:
        """As in ``Answers``."""
        self._begin()
        os.fsync(self._file.fileno())
        self._done = True

    def _begin(self) -> None:
        """Cut off what was written after the answers that there are."""
        if not self._is_begun:
            self._file.truncate(self.progress.bytes)
            self._tell()
            self._is_begun = True

    def _tell(self) -> None:
        """Have the disk hold the answers, then what tells of them."""
        os.fsync(self._file.fileno())
        new = self._beside.with_name(f"{self._beside.name}.new")
        try:
            with open(new, "w", encoding="utf-8") as file:
                json.dump(asdict(self.progress), file, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._beside)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        self._told_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        with self._file:
            if self._done:
                self._beside.unlink(missing_ok=True)
            elif self._is_begun:
                self._file.truncate(self.progress.bytes)
                try:
                    self._tell()
                except OSError:  # the disk is full, which may be what ended it: what was told last still holds
                    if error is None:
                        raise
            if not self._done and not self.progress.lines:  # nothing to go on with
                if self._is_begun:
                    self._beside.unlink()
                if self._is_new:
                    self._path.unlink()


def _differences(told: Work, asked: Work) -> list[str]:
    """What another run was told and this one is not, option by option."""
    found = []
    for name in sorted({*told, *asked}):
        before, now = told.get(name), asked.get(name)
        # No line that is done needed to be cut, or there would be no answer to it.
        only_allows_more = name == "truncate" and now
        if before != now and not only_allows_more:
            found.append(f"{name}: {_shown(before)} then, {_shown(now)} now")
    return found


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
