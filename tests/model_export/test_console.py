"""Failures of a command in one line."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from model_export.config import UserError
from model_export.console import Debug, one_line_errors

FAILURES = {
    "user": UserError("the file is empty:\n  give another"),
    "file": FileNotFoundError(2, "No such file or directory", "a.tsv"),
    "missing": ModuleNotFoundError("No module named 'keras'", name="keras"),
    "bug": KeyError("weights"),
    "exit": typer.Exit(3),
}

app = typer.Typer()


@app.command()
@one_line_errors
def fail(kind: str, debug: Debug = False) -> None:
    """Fail."""
    raise FAILURES[kind]


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("user", "error: the file is empty: give another"),
        ("file", "error: [Errno 2] No such file or directory: 'a.tsv'"),
        ("missing", "error: keras is not installed, and this command needs it: pip install 'malgil[export]'"),
        ("bug", "error: KeyError: 'weights' (--debug shows where)"),
    ],
)
def test_a_failure_is_one_line_and_1(kind: str, line: str) -> None:
    result = CliRunner().invoke(app, [kind])

    assert (result.exit_code, result.stdout, result.stderr) == (1, "", line + "\n")


def test_debug_lets_the_failure_through() -> None:
    result = CliRunner().invoke(app, ["bug", "--debug"])

    assert isinstance(result.exception, KeyError)
    assert result.stderr == ""


def test_an_exit_code_is_kept() -> None:
    assert CliRunner().invoke(app, ["exit"]).exit_code == 3
