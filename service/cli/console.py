"""What the commands share: where they tell how things stand, and errors of one line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console

from service.errors import InvalidRequest, ServiceError
from service.settings import ENVIRONMENT_PREFIX

Command = TypeVar("Command", bound=Callable[..., Any])

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
"""An option of every command; ``one_line_errors`` acts on it."""


class Unfinished(Exception):
    """What ended a command, as the cause, when the message says how to go on with it."""


def notes() -> Console:
    """Standard error, so that standard output holds results alone."""
    return Console(stderr=True)


def one_line_errors(command: Command) -> Command:
    """A command that fails with one line on standard error, and 2 if it was called wrongly, else 1."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, debug: bool, **options: Any) -> Any:
        try:
            return command(*arguments, debug=debug, **options)
        except (Exception, KeyboardInterrupt) as error:
            if debug or isinstance(error, (typer.Exit, BrokenPipeError)):
                raise
            told = (error.__cause__ or error) if isinstance(error, Unfinished) else error
            typer.echo("stopped" if isinstance(told, KeyboardInterrupt) else f"error: {_one_line(told)}", err=True)
            if told is not error:
                typer.echo(f"{error}", err=True)
            is_usage = isinstance(told, (ValidationError, InvalidRequest))
            raise typer.Exit(2 if is_usage else 1) from error

    return wrapped  # type: ignore[return-value]


def _one_line(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(_setting_problem(problem) for problem in error.errors())
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    message = " ".join(str(error).split())
    if isinstance(error, (ServiceError, OSError)):
        return message
    return f"{type(error).__name__}: {message} (--debug shows where)"


def _setting_problem(problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(message)
    name = str(problem["loc"][0])
    return f"{setting_flag(name)} (or {ENVIRONMENT_PREFIX}{name.upper()}): {message[:1].lower()}{message[1:]}"


def setting_flag(setting: str) -> str:
    """The flag of a setting."""
    return "--models" if setting == "models_folder" else f"--{setting.replace('_', '-')}"


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}
