"""What the commands share: where progress is told, one line for an error, and the flags of decoding."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console

from model_export.config import UserError
from model_export.contract import OPTIONS, OptionSpec

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


# --- flags of decoding --------------------------------------------------------------------------------------------

_DECODING_HELP: Final = {
    "beam_size": "Hypotheses kept alive at each step; 1: greedy search.",
    "num_hypotheses": "Answers for each text, best first: beams, or samples.",
    "max_new_tokens": "Longest answer, EOS counted; 0: the model's default.",
    "min_new_tokens": "The answer does not end before so many tokens.",
    "length_penalty": "Rank by log probability / length ** penalty.",
    "repetition_penalty": "Above 1: tokens that the answer has already become less likely.",
    "no_repeat_ngram_size": "No n-gram of this size occurs twice in an answer; 0: any may.",
    "disable_unk": "Never answer with the unknown token.",
    "do_sample": "Draw each token from the model's distribution instead of searching.",
    "temperature": "Of sampling: below 1 likely tokens become likelier.",
    "top_k": "Sample among the k likeliest tokens; 0: among all.",
    "top_p": "Sample among the likeliest tokens whose probabilities sum to this.",
    "seed": "Seed of sampling for the first text; for each next one it is greater by 1.",
}
_FROM_ONE: Final = ("beam_size", "num_hypotheses")
_METAVARS: Final = {"int32": "N", "int64": "N", "float32": "X"}
_MOST: Final = {"int32": 2**31 - 1, "int64": 2**62}  # of seeds half, so that there are some for the next texts


def decoding_flags(*without: str) -> Callable[[Command], Command]:
    """Make of a command's ``**decoding`` flags, one for each decoding option but those named.

    The command is given what differs from neutral, by the names in ``contract.OPTIONS``. What a model makes of it, it
    says itself: its graph checks bounds and contradictions.
    """
    wanted = [name for name in _DECODING_HELP if name not in without]

    def flagged(command: Command) -> Command:
        @functools.wraps(command)
        def run(*arguments: Any, **given: Any) -> Any:
            decoding = {name: given.pop(name) for name in wanted if name in given}
            for name, value in decoding.items():
                if value > _MOST.get(OPTIONS[name].dtype, math.inf):
                    raise typer.BadParameter(f"{value} is too large", param_hint=f"'{_flag(name)}'")
            changed = {name: value for name, value in decoding.items() if value != OPTIONS[name].neutral}
            return command(*arguments, **given, **changed)

        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        flags = [_decoding_flag(name, OPTIONS[name]) for name in wanted]
        run.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in [*own, *flags]}
        return run  # type: ignore[return-value]

    return flagged


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _decoding_flag(name: str, option: OptionSpec) -> inspect.Parameter:
    told: dict[str, Any] = {"help": _DECODING_HELP[name], "metavar": _METAVARS.get(option.dtype)}
    if option.dtype in _MOST:
        told["min"] = int(name in _FROM_ONE)
    annotation: Any = Annotated[type(option.neutral), typer.Option(_flag(name), **told)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option.neutral, annotation=annotation)
