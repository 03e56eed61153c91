"""``malgil generate``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress

from service.cli.console import Debug, given, one_line_errors
from service.errors import ServiceError
from service.settings import Settings
from service.telemetry import configure_logging

TEXTS_PER_CALL: Final = 32
"""Enough to fill a batch, few enough that answers come steadily."""


@one_line_errors
def generate(
    texts: Annotated[list[str] | None, typer.Argument(help="Without any: standard input, one text a line.")] = None,
    url: Annotated[str, typer.Option(help="A running server.")] = "http://127.0.0.1:8000",
    models: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Load the models of this folder instead of calling a server.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Which model; needed where there are several.")] = None,
    model_version: Annotated[
        str | None, typer.Option("--version", help="Which version, a number or a label; the default one if left out.")
    ] = None,
    beam_size: Annotated[int | None, typer.Option(help="Hypotheses kept alive; 1 is greedy search.")] = None,
    num_hypotheses: Annotated[int | None, typer.Option(help="Answers for each text, best first.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    min_new_tokens: Annotated[int | None, typer.Option(help="Shortest answer, in tokens.")] = None,
    length_penalty: Annotated[float | None, typer.Option(help="Rank by log-probability / length ** penalty.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Text that every answer begins with.")] = None,
    truncate: Annotated[bool | None, typer.Option("--truncate", help="Cut texts that are too long.")] = None,
    details: Annotated[
        bool | None, typer.Option("--details", help="With --json: tokens and log-probabilities.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each text.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds for 32 texts.")] = 60.0,
    debug: Debug = False,
) -> None:
    """Generate from texts; one line for every hypothesis, in the order of the texts.

    \b
    Examples:
      malgil generate 'Be nice.' 'Get out!'
      malgil generate --models build/models --model en-fr --beam-size 4 --num-hypotheses 2 'Be nice.'
      malgil generate --json < texts.txt > answers.jsonl
    """
    from service.client import in_process, over_http

    parameters = {
        "beam_size": beam_size,
        "num_hypotheses": num_hypotheses,
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "length_penalty": length_penalty,
        "prefix": prefix,
        "truncate": truncate,
        "details": details,
    }
    asked = int(model_version) if model_version and model_version.isdecimal() else model_version
    request = given({"model": model, "version": asked, "parameters": given(parameters)})
    console = Console(stderr=True)
    with ExitStack() as stack:
        if models is None:
            call = over_http(url, timeout_s)
        else:
            configure_logging("error")
            with console.status("loading the models"):
                call = stack.enter_context(in_process(Settings(**given({"models_folder": models})), timeout_s))
        progress = stack.enter_context(Progress(console=console, transient=True, disable=not console.is_terminal))
        task = progress.add_task("generating", total=len(texts) if texts else None)
        first = 0
        for batch in _batches(texts or _lines()):
            try:
                response = call({**request, "inputs": batch})
            except ServiceError as error:
                error.args = (_counted_from(first, error.message),)
                raise
            _print_outputs(response, batch, as_json)
            progress.advance(task, len(batch))
            first += len(batch)


def _lines() -> Iterator[str]:
    return (line.removesuffix("\n").removesuffix("\r") for line in sys.stdin)


def _counted_from(first: int, message: str) -> str:
    """What is wrong with a text of a call, named by its place among the texts of all calls."""
    return re.sub(r"^'inputs\[(\d+)\]'", lambda found: f"'inputs[{first + int(found[1])}]'", message)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, TEXTS_PER_CALL)):
        yield batch


def _print_outputs(response: dict[str, Any], texts: Sequence[str], as_json: bool) -> None:
    for text, output in zip(texts, response["outputs"], strict=True):
        if as_json:
            typer.echo(json.dumps({"input": text, **output}, ensure_ascii=False))
        else:
            for hypothesis in output["hypotheses"]:
                typer.echo(hypothesis["text"])
