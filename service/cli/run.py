"""A command over many inputs: read, asked about, and answered in their order, so that it can be gone on with."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic

from service.cli.answers import Answers, AnswersStream, Work
from service.cli.answers_file import AnswersFile, is_resumable
from service.cli.calls import Call, Row, cut, in_order
from service.cli.console import Unfinished, notes
from service.cli.lines import Lines
from service.cli.options import Destination, Service
from service.cli.progress import shown
from service.errors import BackendFailed, DeadlineExceeded, InvalidRequest, RequestTooLarge, ServiceError

if TYPE_CHECKING:
    from service.client import Ask, Endpoint

Output = Mapping[str, Any]
"""Of one row, as the server tells it."""
_ELEMENT = re.compile(r"^'(\w+)\[(\d+)\]'")


@dataclass(frozen=True, slots=True)
class Job(Generic[Row]):
    """What a command does with its lines."""

    endpoint: Endpoint
    work: Work
    """All that answers depend on, but the lines and the model."""
    parse: Callable[[str], Row | None]
    """A line's row; None: the line is empty. Raises InvalidRequest, whose message begins behind the line's name."""
    body: Callable[[Sequence[Row], int], dict[str, Any]]
    """The request about rows, before which so many others were asked about."""
    written: Callable[[Row, Output], str]
    """The answer to a row, without the last line's end."""
    written_empty: Callable[[str], str]
    """The same for an empty line, which may be of white space."""
    elements: Mapping[str, str] = field(default_factory=lambda: {"inputs": ""})
    """The request's lists, and what is said of an element of them before the name of its line."""


def run(job: Job[Row], lines: Lines, service: Service, destination: Destination) -> None:
    """Answer all ``lines``.

    Raises:
        Unfinished: it ended too early, and the same command with --resume goes on.
        ServiceError, OSError, KeyboardInterrupt: it ended too early.
    """
    if lines.is_typed:
        service = replace(service, lines_per_call=1)
        notes().print("reading standard input, a line at a time; Ctrl-D ends it", highlight=False)
    tally = _Tally()
    with _terminated_as_interrupted(), ExitStack() as stack:
        answers = stack.enter_context(_answers(job.work, destination))
        source = lines.read()
        answers.skip_done(source)
        ask = stack.enter_context(service.connected())
        is_silent = destination.path is None and sys.stdout.isatty()  # the answers show how far it is
        advance = stack.enter_context(shown(job.endpoint, answers.progress.lines, lines.count, is_silent=is_silent))
        progress = answers.progress
        parse = _parsed(job, lines)
        calls: Iterator[Call[Row]] = cut(source, parse, service.lines_per_call, progress.lines + 1, progress.asked)
        answered = stack.enter_context(closing(in_order(calls, _answered(job, ask, lines), service.parallel)))
        for call, (outputs, version) in answered:
            answers.append(call.lines, len(call.asked), _lines_of(job, call, outputs), version)
            tally.add(call, outputs, lines)
            advance(len(call.lines))
        answers.finish()
    for note in tally.notes(answers.progress.versions):
        notes().print(note, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: with the command that goes on."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parsed(job: Job[Row], lines: Lines) -> Callable[[int, str], Row | None]:
    def parse(place: int, line: str) -> Row | None:
        try:
            return job.parse(line)
        except InvalidRequest as error:
            raise InvalidRequest(f"{lines.name(place)} {error.message}") from error

    return parse


def _answered(job: Job[Row], ask: Ask, lines: Lines) -> Callable[[Call[Row]], tuple[list[Output], str | None]]:
    """What asks about the rows of a call, and gives their outputs and the version that they are of."""

    def answer(call: Call[Row]) -> tuple[list[Output], str | None]:
        rows = [row for _, row in call.asked]
        if not rows:
            return [], None
        try:
            answer = ask(job.endpoint, job.body(rows, call.asked_before))
        except ServiceError as error:
            raise _about(error, call, job, lines) from error
        return answer["outputs"], f"version {answer['model_version']} of {answer['model_name']}"

    return answer


def _about(error: ServiceError, call: Call[Row], job: Job[Row], lines: Lines) -> ServiceError:
    """The same error, with lines for elements of the request."""
    message = error.message
    element = _ELEMENT.match(message)
    if element and element[1] in job.elements and int(element[2]) < len(call.asked):
        place, _ = call.asked[int(element[2])]
        message = f"{job.elements[element[1]]}{lines.name(place)}{message[element.end() :]}"
    elif isinstance(error, (BackendFailed, DeadlineExceeded, RequestTooLarge)):
        others = len(call.lines) - 1
        message = f"{lines.name(call.place)}{f' and the {others} after it' if others else ''}: {message}"
    return type(error)(message, retry_after_s=error.retry_after_s)


def _lines_of(job: Job[Row], call: Call[Row], outputs: Sequence[Output]) -> bytes:
    """What is written of a call."""
    given = iter(outputs)
    return "".join(
        f"{job.written_empty(line) if row is None else job.written(row, next(given))}\n"
        for line, row in zip(call.lines, call.rows, strict=True)
    ).encode()


@contextmanager
def _answers(work: Work, destination: Destination) -> Iterator[Answers]:
    """Where they go; what ends the context early says how to go on, if that is possible."""
    path = destination.path
    if path is None:
        yield AnswersStream(sys.stdout.buffer, work)
        return
    if not is_resumable(path):
        if destination.resume:
            raise InvalidRequest(f"--resume needs a file, and {path} is none")
        with open(path, "wb") as stream:
            yield AnswersStream(stream, work)
        return
    with AnswersFile(path, work, resume=destination.resume, force=destination.force) as answers:
        try:
            yield answers
        except (Exception, KeyboardInterrupt) as error:
            if not answers.progress.lines:
                raise
            raise Unfinished(f"{_counted(answers.progress.lines, 'line')} done; go on with: {_resumed()}") from error


def _resumed() -> str:
    """The command line that goes on."""
    command, *arguments = sys.argv[1:]
    options = [each for each in arguments if each not in ("--force", "--resume")]
    return shlex.join(["malgil", command, "--resume", *options])


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@dataclass(slots=True)
class _Tally:
    """What is told at the end, because the answers themselves do not."""

    empty: int = 0
    warned: int = 0
    first_warning: str = ""

    def add(self, call: Call[Row], outputs: Sequence[Output], lines: Lines) -> None:
        self.empty += len(call.rows) - len(call.asked)
        for (place, _), output in zip(call.asked, outputs, strict=True):
            if output.get("warnings"):
                self.first_warning = self.first_warning or f"{lines.name(place)}: {output['warnings'][0]}"
                self.warned += 1

    def notes(self, versions: Sequence[str]) -> Iterator[str]:
        if self.empty:
            yield f"{_counted(self.empty, 'empty line')}, left empty"
        if self.warned:
            yield f"{_counted(self.warned, 'answer')} with warnings, shown by --json; the first: {self.first_warning}"
        if len(versions) > 1:
            yield f"the answers are of {' and '.join(versions)}"
