"""The commands together."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from service.cli.generate import generate
from service.cli.rollout import rollout
from service.cli.score import score
from service.cli.serve import serve

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


def main() -> None:
    """The console script."""
    app()


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


app.command()(serve)
app.command()(generate)
app.command()(score)
app.add_typer(rollout)
