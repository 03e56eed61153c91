"""``malgil-export export``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from model_export.console import Debug, one_line_errors, progress_console
from model_export.contract import DTYPES, Dtype
from model_export.evaluation.command import BleuTokenizer
from model_export.startup import load_tensorflow
from model_export.text.progress import OnProgress, shown


@one_line_errors
def export(
    model: Annotated[Path, typer.Argument(exists=True, file_okay=False, show_default=False)],
    to: Annotated[Path, typer.Option(metavar="ROOT", help="The folder of all exported models.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="The model's name; the folder's by default.")] = None,
    model_version: Annotated[
        int | None, typer.Option("--version", min=1, help="The version; the next free integer by default.")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DTYPE",
            help="float32, bfloat16 or int8; repeatable, or a list with commas. Of several float32 (else the first) "
            "is NAME, any other NAME-DTYPE.",
            show_default="float32",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, help="Tab-separated pairs by which int8 gets static scales."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="FILE", help="Tab-separated pairs: tell what each dtype costs; repeatable."),
    ] = None,
    tokenize: Annotated[BleuTokenizer, typer.Option(help="With --data: sacrebleu's tokenizer for BLEU.")] = "13a",
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", dir_okay=False, help="With --data: write what was found as JSON too."),
    ] = None,
    ids_only: Annotated[
        bool, typer.Option("--ids-only", help="No TF Text in the graph, for servers without it; Malgil tokenizes.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Export a trained model to ROOT/NAME/VERSION, a SavedModel for TF Serving and `malgil serve`.

    The artifact is verified before it appears under its name. bfloat16 and int8 are faster, and need AVX-512 here and
    where they run. With --data their answers and losses are compared with those of float32.

    \b
    Examples:
      malgil-export export models/en-fr --to build/models
      malgil-export export runs/mine --to build/models --name mine --version 3
      malgil-export export models/en-fr --to build/models --dtype float32,int8 --data valid.tsv
      malgil-export export models/en-fr --to build/models --dtype int8 --calibrate train.tsv
    """
    dtypes = _parse_dtypes(dtype or ["float32"])
    if calibrate is not None and "int8" not in dtypes:
        raise typer.BadParameter("only int8 has static scales: add --dtype int8", param_hint="'--calibrate'")
    if json_file is not None and not data:
        raise typer.BadParameter("it tells what --data measures, which is missing", param_hint="'--json'")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise typer.BadParameter(f"{json_file.parent} is no folder", param_hint="'--json'")
    order = _Order(model, to, _names(name or model.resolve().name, dtypes), model_version, calibrate, ids_only)
    load_tensorflow()
    with shown(progress_console) as on_progress:
        artifacts = _export_all(order, on_progress)
    for artifact in artifacts.values():
        typer.echo(f"{artifact}")
    if data:
        facts = _quality(order, artifacts, data, tokenize)
        if json_file is not None:
            json_file.write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        _print_quality(facts)


@dataclass(frozen=True)
class _Order:
    """What is to be exported."""

    model: Path
    root: Path
    names: dict[Dtype, str]
    version: int | None
    calibrate: Path | None
    ids_only: bool

    def kind(self, dtype: Dtype) -> str:
        """As ``evaluation.quality`` calls it."""
        return "int8 static" if dtype == "int8" and self.calibrate else dtype


def _parse_dtypes(given: Sequence[str]) -> list[Dtype]:
    """Each once, in the order given."""
    dtypes: dict[str, Dtype] = {dtype: dtype for dtype in DTYPES}
    names = dict.fromkeys(name.strip() for each in given for name in each.split(","))
    for name in names:
        if name not in dtypes:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(DTYPES)}", param_hint="'--dtype'")
    return [dtypes[name] for name in names]


def _names(name: str, dtypes: Sequence[Dtype]) -> dict[Dtype, str]:
    """The models' names by their dtypes."""
    plain = "float32" if "float32" in dtypes else dtypes[0]
    return {dtype: name if dtype == plain else f"{name}-{dtype}" for dtype in dtypes}


def _export_all(order: _Order, on_progress: OnProgress) -> dict[Dtype, Path]:
    """The new artifacts by their dtypes; nothing is written when one of them cannot be."""
    from model_export.artifact.versions import model_folder
    from model_export.calibration import calibrate
    from model_export.export import check_dtype, export_model
    from model_export.trained_model import load_trained_model

    for dtype, name in order.names.items():
        check_dtype(dtype)
        model_folder(order.root, name, order.version)
    on_progress("reading the model", 0, 0)
    trained = load_trained_model(order.model)
    scales = calibrate(trained, order.calibrate, on_progress) if order.calibrate else None
    artifacts = {}
    for dtype, name in order.names.items():

        def told(stage: str, done: int, total: int, name: str = name) -> None:
            on_progress(stage if len(order.names) == 1 else f"{name}: {stage}", done, total)

        artifacts[dtype] = export_model(
            trained, order.root, name, order.version, told, order.ids_only, dtype, scales if dtype == "int8" else None
        )
    return artifacts


def _quality(
    order: _Order, artifacts: Mapping[Dtype, Path], files: list[str], tokenize: BleuTokenizer
) -> dict[str, Any]:
    """What the artifacts' dtypes cost beside float32, by ``measure_quality``."""
    from model_export.evaluation.data import EvaluationData
    from model_export.evaluation.local import local_subject
    from model_export.evaluation.quality import Variant, measure_quality
    from model_export.evaluation.run import EvaluationOptions
    from model_export.text.pairs import read_pairs

    places: dict[Dtype, Path] = {"float32": order.model, **artifacts}  # without an artifact: the trained model
    with ExitStack() as stack:
        on_progress = stack.enter_context(shown(progress_console))
        pairs = read_pairs(files, on_progress=on_progress)
        variants = []
        for dtype, place in places.items():
            on_progress(f"reading {place}", 0, 0)
            subject = stack.enter_context(local_subject(place, f"{place}"))
            variants.append(Variant(order.kind(dtype), subject))
        options = EvaluationOptions(bleu_tokenizer=tokenize)
        facts = measure_quality(variants, EvaluationData.from_pairs(pairs), options, on_progress)
    facts["data"] = {"files": files, **facts["data"]}
    return facts


def _print_quality(facts: dict[str, Any]) -> None:
    from model_export.evaluation.quality import missed_floors, quality_table

    Console().print(quality_table(facts))
    for signature in facts["signatures"].values():
        typer.echo(signature)
    for missed in missed_floors(facts):
        typer.echo(f"warning: {missed}", err=True)
