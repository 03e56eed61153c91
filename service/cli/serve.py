"""``malgil serve``: a flag for every setting."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from service.backend import ModelVersion, VersionState
from service.cli.console import Command, Debug, given, one_line_errors, setting_flag
from service.cli.memory_allocator import start_anew_for_models
from service.settings import ENVIRONMENT_PREFIX, Settings


def setting_flags(command: Command) -> Command:
    """A command whose ``**settings_given`` are flags, one for each setting, as the strings that were given."""
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, field))
        for name, field in Settings.model_fields.items()
    ]
    command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in [*own, *flags]}
    return command


def _option(name: str, field: FieldInfo) -> Any:
    if get_origin(field.annotation) is Literal:
        metavar = "|".join(get_args(field.annotation))
    else:
        metavar = {int: "N", int | None: "N", float: "X", Path: "DIR"}.get(field.annotation, "TEXT")  # type: ignore[arg-type]
    default = field.get_default(call_default_factory=True, validated_data={})
    help_text = f"{field.description} [default: {default}]"
    return Annotated[str | None, typer.Option(setting_flag(name), metavar=metavar, help=help_text, show_default=False)]


@one_line_errors
@setting_flags
def serve(
    print_settings: Annotated[
        bool, typer.Option("--print-settings", help="Show the settings as environment variables and exit.")
    ] = False,
    debug: Debug = False,
    **settings_given: str | None,
) -> None:
    """Serve models over REST and gRPC until SIGTERM or Ctrl-C, which lets accepted requests finish.

    Every option is also an environment variable: --port is MALGIL_PORT. The API is described at /docs.

    \b
    Examples:
      malgil serve --models build/models
      malgil serve --models build/models --host 0.0.0.0 --port 8080
      MALGIL_MAX_BATCH_ROWS=16 malgil serve --print-settings
    """
    settings = Settings(**given(settings_given))
    if print_settings:
        for name, value in settings.model_dump(mode="json").items():
            typer.echo(f"{ENVIRONMENT_PREFIX}{name.upper()}={'' if value is None else value}")
        return
    if settings.backend == "embedded":
        start_anew_for_models()
    from service.bootstrap import run

    run(settings, _announce)


def _announce(address: str, rpc_address: str | None, versions: Sequence[ModelVersion]) -> None:
    ready = [f"{each.name} (version {each.version})" for each in versions if each.state is VersionState.READY]
    served = f"Malgil serves {', '.join(ready) or 'no model yet'} on {address}, documented at {address}/docs"
    typer.echo(served if rpc_address is None else f"{served}, and over gRPC on {rpc_address}")
