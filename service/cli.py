"""``malgil``: serve models, and generate from the command line. TensorFlow is imported only where a model runs."""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.progress import Progress

from service.backend import ModelVersion, VersionState
from service.errors import InvalidRequest, ServiceError
from service.settings import ENVIRONMENT_PREFIX, Settings
from service.telemetry import configure_logging

Command = TypeVar("Command", bound=Callable[..., Any])

TEXTS_PER_CALL: Final = 32
"""Of ``malgil generate``: enough to fill a batch, few enough that answers come steadily."""

app = typer.Typer(
    name="malgil",
    help="Serve exported sequence-to-sequence models, and generate with them.",
    epilog="Exit codes: 0 done, 1 it failed, 2 bad usage.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]


def main() -> None:
    """The console script."""
    app()


def one_line_errors(command: Command) -> Command:
    """A command that fails with one line on standard error, and 2 if it was called wrongly, else 1."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, debug: bool, **options: Any) -> Any:
        try:
            return command(*arguments, debug=debug, **options)
        except Exception as error:
            if debug or isinstance(error, (typer.Exit, BrokenPipeError)):
                raise
            typer.echo(f"error: {_one_line(error)}", err=True)
            is_usage = isinstance(error, (ValidationError, InvalidRequest))
            raise typer.Exit(2 if is_usage else 1) from error

    return wrapped  # type: ignore[return-value]


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(_setting_problem(problem) for problem in error.errors())
    message = " ".join(str(error).split())
    if isinstance(error, (ServiceError, OSError)):
        return message
    return f"{type(error).__name__}: {message} (--debug shows where)"


def _setting_problem(problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(message)
    name = str(problem["loc"][0])
    return f"{_flag(name)} (or {ENVIRONMENT_PREFIX}{name.upper()}): {message[:1].lower()}{message[1:]}"


def setting_flags(command: Command) -> Command:
    """A command whose ``**given`` are flags, one for each setting, as the strings that were given."""
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, field))
        for name, field in Settings.model_fields.items()
    ]
    command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in [*own, *flags]}
    return command


def _flag(setting: str) -> str:
    return "--models" if setting == "models_folder" else f"--{setting.replace('_', '-')}"


def _option(name: str, field: FieldInfo) -> Any:
    if get_origin(field.annotation) is Literal:
        metavar = "|".join(get_args(field.annotation))
    else:
        metavar = {int: "N", float: "X", Path: "DIR"}.get(field.annotation, "TEXT")  # type: ignore[arg-type]
    default = field.get_default(call_default_factory=True, validated_data={})
    help_text = f"{field.description} [default: {default}]"
    return Annotated[str | None, typer.Option(_flag(name), metavar=metavar, help=help_text, show_default=False)]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"malgil {version('malgil')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


@app.command()
@one_line_errors
@setting_flags
def serve(
    print_settings: Annotated[
        bool, typer.Option("--print-settings", help="Show the settings as environment variables and exit.")
    ] = False,
    debug: Debug = False,
    **given: str | None,
) -> None:
    """Serve models over REST and gRPC until SIGTERM or Ctrl-C, which lets accepted requests finish.

    Every option is also an environment variable: --port is MALGIL_PORT. The API is described at /docs.

    \b
    Examples:
      malgil serve --models build/models
      malgil serve --models build/models --host 0.0.0.0 --port 8080
      MALGIL_MAX_BATCH_ROWS=16 malgil serve --print-settings
    """
    settings = Settings(**_given(given))
    if print_settings:
        for name, value in settings.model_dump(mode="json").items():
            typer.echo(f"{ENVIRONMENT_PREFIX}{name.upper()}={'' if value is None else value}")
        return
    from service.bootstrap import run

    run(settings, _announce)


def _announce(address: str, rpc_address: str | None, versions: Sequence[ModelVersion]) -> None:
    ready = [f"{each.name} (version {each.version})" for each in versions if each.state is VersionState.READY]
    served = f"Malgil serves {', '.join(ready) or 'no model yet'} on {address}, documented at {address}/docs"
    typer.echo(served if rpc_address is None else f"{served}, and over gRPC on {rpc_address}")


@app.command()
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
    request = _given({"model": model, "version": asked, "parameters": _given(parameters)})
    console = Console(stderr=True)
    with ExitStack() as stack:
        if models is None:
            call = over_http(url, timeout_s)
        else:
            configure_logging("error")
            with console.status("loading the models"):
                call = stack.enter_context(in_process(Settings(**_given({"models_folder": models})), timeout_s))
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


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


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
