"""Options that ``malgil generate`` and ``malgil score`` share, and what they add up to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service.cli.console import given, notes
from service.cli.lines import STANDARD
from service.errors import InvalidRequest
from service.settings import Settings, usable_cores
from service.telemetry import configure_logging

if TYPE_CHECKING:
    from service.client import Ask

PARALLEL: Final = min(16, 2 * usable_cores())
"""By default two calls for each core: one that runs, and one that is ready to. More wait in the server's queue."""

Url = Annotated[str, typer.Option(help="A running server.")]
Models = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Load the models of this folder instead of calling a server.")
]
Model = Annotated[str | None, typer.Option(help="Which model; needed where there are several.")]
ModelVersion = Annotated[
    str | None, typer.Option("--version", help="Which version, a number or a label; the default one if left out.")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to; - or none: standard output.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the unfinished --output, if there is one.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an --output that exists.")]
Parallel = Annotated[int, typer.Option(min=1, max=256, metavar="N", help="Calls at the same time.")]
LinesPerCall = Annotated[int, typer.Option(min=1, max=65_536, metavar="N", help="Most lines in one call.")]
Truncate = Annotated[bool | None, typer.Option("--truncate", help="Cut texts that are too long.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, metavar="S", help="Seconds for one call.")]


@dataclass(frozen=True, slots=True)
class Service:
    """Who answers, and how it is called."""

    url: str
    models: Path | None
    timeout_s: float
    parallel: int
    lines_per_call: int

    @contextmanager
    def connected(self) -> Iterator[Ask]:
        """Calls to it, repeated where that helps."""
        from service.client import in_process, over_http, patient

        if self.models is None:
            yield patient(over_http(self.url, self.timeout_s))
            return
        configure_logging("error")
        console = notes()
        loading = console.status("loading the models")
        loading.start()
        try:
            with in_process(Settings(**given({"models_folder": self.models})), self.timeout_s) as ask:
                loading.stop()
                yield patient(ask)
        finally:
            loading.stop()


@dataclass(frozen=True, slots=True)
class Destination:
    """Where answers go."""

    path: Path | None
    """None: standard output."""
    resume: bool
    force: bool


def destination(output: Path | None, source: Path | None, *, resume: bool, force: bool) -> Destination:
    """Where ``output`` says.

    Raises:
        InvalidRequest: the options contradict each other, or the input would be overwritten.
    """
    if resume and force:
        raise InvalidRequest("--resume goes on with a file and --force overwrites it: give one of them")
    path = None if output in (None, STANDARD) else output
    if path is None and (resume or force):
        raise InvalidRequest(f"{'--resume' if resume else '--force'} needs --output FILE")
    if path is not None and source not in (None, STANDARD) and path.exists() and path.samefile(source):
        raise InvalidRequest(f"--input and --output are the same file, {path}")
    return Destination(path, resume, force)


def selection(model: str | None, model_version: str | None) -> dict[str, Any]:
    """Fields of a request that say which model answers; a version of digits is a number, any other a label."""
    is_number = model_version is not None and model_version.isascii() and model_version.isdecimal()
    return given({"model": model, "version": int(model_version) if is_number and model_version else model_version})
