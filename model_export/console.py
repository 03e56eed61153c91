"""What the commands share: where progress is told, and one line for an error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from model_export.config import UserError

Command = TypeVar("Command", bound=Callable[..., Any])

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
"""An option of every command; ``one_line_errors`` acts on it."""

progress_console = Console(stderr=True)
"""Where progress is told, so that standard output holds results alone."""


def one_line_errors(command: Command) -> Command:
    """A command that fails with one line on standard error and exit code 1; ``--debug`` shows the traceback instead."""

    @functools.wraps(command)
    def run(*arguments: Any, debug: bool, **options: Any) -> Any:
        try:
            return command(*arguments, debug=debug, **options)
        except Exception as error:
            if debug or isinstance(error, (typer.Exit, typer.BadParameter)):
                raise
            typer.echo(f"error: {_one_line(error)}", err=True)
            raise typer.Exit(1) from error

    return run  # type: ignore[return-value]


def _one_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("model_export"):
        return f"{error.name} is not installed, and this command needs it: pip install 'malgil[export]'"
    lines = [line for line in map(str.strip, str(error).splitlines()) if line]
    message = " ".join(lines) if isinstance(error, UserError) else "".join(lines[:1])
    if isinstance(error, UserError | OSError):
        return message
    return f"{type(error).__name__}: {message} (--debug shows where)"
