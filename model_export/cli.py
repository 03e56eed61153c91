"""``malgil-export``: train, export, verify, inspect, generate, evaluate. Only the commands import TensorFlow."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from model_export.console import Debug, decoding_flags, one_line_errors, progress_console
from model_export.evaluation.command import evaluate
from model_export.export_command import export
from model_export.startup import load_tensorflow
from model_export.text.progress import shown

app = typer.Typer(
    name="malgil-export",
    help="Train sequence-to-sequence models and export them for serving.",
    epilog="Exit codes: 0 done, 1 it failed, 2 bad usage.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ExistingFolder = typer.Argument(exists=True, file_okay=False, show_default=False)


def main() -> None:
    """The console script."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"malgil-export {version('malgil')}")
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
def train(
    config: Annotated[str, typer.Argument(help="A shipped configuration's name or a YAML file.", show_default=False)],
    train_files: Annotated[
        list[str], typer.Option("--train", metavar="FILE", help="Tab-separated pairs; a file or a glob, repeatable.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The new model's folder.", show_default=False)],
    valid_files: Annotated[
        list[str] | None,
        typer.Option("--valid", metavar="FILE", help="The same for validation; without it, a part of --train."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the configuration, repeatable."),
    ] = None,
    skip_malformed: Annotated[
        bool, typer.Option("--skip-malformed", help="Count and skip malformed lines instead of refusing the file.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run in --out.")] = False,
    debug: Debug = False,
) -> None:
    """Train a model from text pairs, one "source TAB target" a line.

    Ctrl-C saves the state of the run; the same command with --resume goes on to the same result.

    \b
    Examples:
      malgil-export train transformer --train 'data/*.tsv' --out runs/mine
      malgil-export train mine.yaml --train a.tsv --valid b.tsv --set training.epochs=10 --out runs/mine
    """
    from model_export.config import load_config

    overrides = _parse_settings(settings or [])
    if skip_malformed:
        overrides["data.skip_malformed"] = True
    run_config = load_config(config, overrides)
    load_tensorflow()
    from model_export.training.trainer import train as train_model

    train_model(run_config, train_files, valid_files, out, resume=resume, console=progress_console)
    typer.echo(f"{out}")


def _parse_settings(settings: list[str]) -> dict[str, Any]:
    import yaml

    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"{setting!r} is not KEY=VALUE", param_hint="'--set'")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"{setting!r}: the value is not YAML", param_hint="'--set'") from error
    return overrides


@app.command()
@one_line_errors
def verify(artifact: Annotated[Path, ExistingFolder], debug: Debug = False) -> None:
    """Replay an artifact's certificate through the SavedModel; exit with 1 on any difference.

    \b
    Example:
      malgil-export verify build/models/en-fr/1
    """
    load_tensorflow()
    from model_export.verify import verify as verify_artifact

    with shown(progress_console) as on_progress:
        report = verify_artifact(artifact, on_progress)
    for difference in report.differences:
        typer.echo(f"{difference}", err=True)
    outcome = "as certified" if report.passed else f"{len(report.differences)} differences"
    typer.echo(f"{artifact}: {outcome} ({report.cases} cases, {report.checks} checks)")
    if not report.passed:
        raise typer.Exit(1)


@app.command()
@one_line_errors
def profile(
    artifact: Annotated[Path, ExistingFolder],
    seconds: Annotated[
        float, typer.Option(metavar="S", min=1.0, help="Time for it; the largest calls are left out if it is short.")
    ] = 60.0,
    debug: Debug = False,
) -> None:
    """Time an artifact's calls on this machine and add that to its manifest, for servers to plan by.

    \b
    Example:
      malgil-export profile build/models/en-fr/1
    """
    load_tensorflow()
    from model_export.inspection import profile_table
    from model_export.profiling import profile as profile_artifact

    with shown(progress_console) as on_progress:
        measured = profile_artifact(artifact, seconds, on_progress)
    Console().print(profile_table(asdict(measured)))


@app.command()
@one_line_errors
def inspect(
    target: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|MODEL_DIR|ARTIFACT",
            help="A shipped configuration's name, a YAML file, a trained model's folder or an artifact.",
            show_default=False,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Everything that is known, as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Tell what a configuration, a trained model or an artifact is.

    \b
    Examples:
      malgil-export inspect transformer
      malgil-export inspect build/models/en-fr/1 --json
    """
    from model_export.inspection import fact_tables
    from model_export.inspection import inspect as inspect_target

    with shown(progress_console) as on_progress:
        facts = inspect_target(target, on_progress)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=2))
    else:
        Console().print(*fact_tables(target, facts))


@app.command()
@one_line_errors
@decoding_flags()
def generate(
    model: Annotated[Path, ExistingFolder],
    texts: Annotated[list[str] | None, typer.Argument(help="Without any: standard input, one text a line.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a text, with scores.")] = False,
    debug: Debug = False,
    **decoding: bool | int | float,
) -> None:
    """Answer texts with a trained model's folder or an artifact; one line for every hypothesis.

    \b
    Examples:
      malgil-export generate models/en-fr 'Be nice.' 'Get out!'
      malgil-export generate build/models/en-fr/1 --beam-size 4 --num-hypotheses 2 --json < texts.txt
      malgil-export generate models/en-fr 'Be nice.' --do-sample --num-hypotheses 3 --top-p 0.9 --seed 7
    """
    beam_size = decoding.get("beam_size", 1)
    if not decoding.get("do_sample") and decoding.get("num_hypotheses", 1) > beam_size:
        message = f"it is at most --beam-size, {beam_size}, without --do-sample"
        raise typer.BadParameter(message, param_hint="'--num-hypotheses'")
    texts = texts or _read_lines()
    load_tensorflow()
    from model_export.generation import generate as answers_of
    from model_export.generation import opened

    with shown(progress_console) as on_progress:
        on_progress("reading the model", 0, 0)
        with opened(model) as signatures:
            for text, answer in zip(texts, answers_of(signatures.generate, texts, decoding, on_progress), strict=True):
                _print_answer(text, answer, as_json)


app.command()(export)
app.command()(evaluate)


def _read_lines() -> list[str]:
    """Those of standard input, without the byte order mark that some editors write."""
    raw = [line.removesuffix(b"\n").removesuffix(b"\r") for line in sys.stdin.buffer]
    lines = [line.decode("utf-8", "surrogateescape") for line in raw]  # as arguments: what is no UTF-8 is refused later
    return [line.removeprefix("\ufeff") for line in lines[:1]] + lines[1:]


def _print_answer(text: str, answer: Any, as_json: bool) -> None:
    from model_export.contract import FinishReason

    if not as_json:
        typer.echo("\n".join(answer.sentences))
        return
    hypotheses = [
        {"generated_text": sentence, "score": score, "finish_reason": FinishReason(reason).name.lower()}
        for sentence, score, reason in zip(answer.sentences, answer.scores, answer.finish_reasons, strict=True)
    ]
    typer.echo(json.dumps({"text": text, "hypotheses": hypotheses}, ensure_ascii=False))
