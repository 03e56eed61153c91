"""Failures of a command in one line, and the flags of decoding."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from model_export.config import UserError
from model_export.console import Debug, decoding_flags, one_line_errors
from model_export.contract import OPTIONS

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


# --- flags of decoding ------------------------------------------------------------------------------------------------

decoder = typer.Typer()


@decoder.command()
@one_line_errors
@decoding_flags("num_hypotheses")
def decode(text: str, debug: Debug = False, **decoding: bool | int | float) -> None:
    """Show what the command is given."""
    typer.echo(json.dumps({"text": text, **decoding}))


def given(*arguments: str) -> Any:
    result = CliRunner().invoke(decoder, ["x", *arguments])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_there_is_a_flag_for_every_option_but_those_left_out() -> None:
    shown = CliRunner().invoke(decoder, ["--help"]).stdout

    flags = {name for name in OPTIONS if f"--{name.replace('_', '-')} " in shown}
    assert flags == OPTIONS.keys() - {"num_hypotheses"}


def test_a_command_is_given_what_is_not_neutral() -> None:
    assert given() == {"text": "x"}
    assert given("--beam-size", "1", "--top-p", "1.0", "--seed", "0") == {"text": "x"}
    assert given("--do-sample", "--top-k", "5", "--temperature", "0.5", "--seed", "7", "--debug") == {
        "text": "x",
        "do_sample": True,
        "top_k": 5,
        "temperature": 0.5,
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--beam-size", "0"], "Invalid value for '--beam-size'"),
        (["--top-k", "-1"], "Invalid value for '--top-k'"),
        (["--max-new-tokens", str(2**31)], "'--max-new-tokens': 2147483648 is too large"),
        (["--seed", str(2**63)], "'--seed': 9223372036854775808 is too large"),
        (["--temperature", "hot"], "Invalid value for '--temperature'"),
    ],
)
def test_what_no_tensor_holds_is_bad_usage(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(decoder, ["x", *arguments])

    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
