"""``malgil-export evaluate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from model_export.console import Debug, decoding_flags, one_line_errors, progress_console
from model_export.evaluation.fitting import Overlong
from model_export.evaluation.opening import is_address, opened_subjects, place
from model_export.startup import load_tensorflow
from model_export.text.progress import shown

BleuTokenizer = Literal["13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "none"]
"""Of sacrebleu, without those that download a model."""


@one_line_errors
@decoding_flags("num_hypotheses")
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL [OTHER]",
            help="An artifact, the folder of its versions, a trained model's folder, or a service: "
            "http://host:8000/MODEL/VERSION or less of it. With OTHER both are judged on the same and compared.",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str], typer.Option("--data", metavar="FILE", help="Tab-separated pairs; a file or a glob, repeatable.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Of a service that serves several.")
    ] = None,
    version: Annotated[
        str | None,
        typer.Option("--version", help="Of what names none: a number, or a service's label; else the newest."),
    ] = None,
    tokenize: Annotated[
        BleuTokenizer, typer.Option(help="sacrebleu's tokenizer for BLEU; char suits Chinese, Japanese and Korean.")
    ] = "13a",
    overlong: Annotated[
        Overlong, typer.Option(help="What to do with texts that exceed a model's limits; both are counted.")
    ] = "skip",
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Judge on the first N sources alone.")] = None,
    sample_seed: Annotated[
        int | None, typer.Option(min=0, metavar="SEED", help="With --limit: N sources drawn by it.")
    ] = None,
    buckets: Annotated[
        int, typer.Option(min=1, metavar="N", help="Buckets of like many sources, by their length.")
    ] = 4,
    samples: Annotated[int, typer.Option(min=100, metavar="N", help="Bootstrap resamples of a comparison.")] = 1000,
    bootstrap_seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Of the resamples; sacrebleu's by default.")
    ] = 12345,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Texts in one call.")] = 32,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.001, max=86_400.0, metavar="S", help="Of a service: seconds for a call.")
    ] = 60.0,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON too; -: that alone, here.")
    ] = None,
    skip_malformed: Annotated[
        bool, typer.Option("--skip-malformed", help="Count and skip malformed lines instead of refusing the file.")
    ] = False,
    debug: Debug = False,
    **decoding: bool | int | float,
) -> None:
    """Judge a model on pairs, "source TAB target": BLEU, chrF, loss, perplexity, token accuracy, speed, by length.

    Lines of one source are one source with several references. Two models are compared by paired bootstrap resampling.

    \b
    Examples:
      malgil-export evaluate models/en-fr --data valid.tsv
      malgil-export evaluate build/models/en-fr --data valid.tsv --beam-size 4 --json figures.json
      malgil-export evaluate http://127.0.0.1:8000/en-fr --data valid.tsv --limit 200
      malgil-export evaluate build/models/en-fr/1 http://127.0.0.1:8000/en-fr/2 --data valid.tsv
    """
    _check_usage(models, version, limit, sample_seed, json_file)
    from model_export.evaluation.data import EvaluationData
    from model_export.evaluation.report import notes, tables
    from model_export.evaluation.run import EvaluationOptions
    from model_export.evaluation.run import evaluate as evaluate_models
    from model_export.text.pairs import read_pairs

    places = [place(each, model, version) for each in models]
    with shown(progress_console) as on_progress:
        pairs = read_pairs(data, skip_malformed, on_progress)
    judged_on = EvaluationData.from_pairs(pairs)
    if limit is not None:
        judged_on = judged_on.limited(limit, sample_seed)
    options = EvaluationOptions(decoding, overlong, tokenize, batch_size, buckets, samples, bootstrap_seed)
    if any(isinstance(each, Path) for each in places):
        load_tensorflow()
    with (
        shown(progress_console) as on_progress,
        opened_subjects(places, timeout_s, batch_size, on_progress) as subjects,
    ):
        facts = evaluate_models(subjects, judged_on, options, on_progress)
    facts["data"] = {"files": data, **facts["data"], "malformed": pairs.malformed}
    as_json = json.dumps(facts, ensure_ascii=False, indent=2)
    if json_file == "-":
        typer.echo(as_json)
        return
    if json_file is not None:
        Path(json_file).write_text(as_json + "\n", encoding="utf-8")
    Console().print(*tables(facts))
    for note in notes(facts):
        typer.echo(note)


def _check_usage(
    models: Sequence[str], version: str | None, limit: int | None, sample_seed: int | None, json_file: str | None
) -> None:
    if len(models) > 2:
        raise typer.BadParameter("one model is judged, or two are compared", param_hint="'MODEL'")
    if version is not None and not version.isdecimal() and not all(map(is_address, models)):
        raise typer.BadParameter(f"versions in folders are numbers, not {version!r}", param_hint="'--version'")
    if sample_seed is not None and limit is None:
        raise typer.BadParameter("it draws the sources of --limit, which is missing", param_hint="'--sample-seed'")
    if json_file in (None, "-"):
        return
    if not Path(json_file).absolute().parent.is_dir():
        raise typer.BadParameter(f"{Path(json_file).parent} is no folder", param_hint="'--json'")
    if Path(json_file).is_dir():
        raise typer.BadParameter(f"{json_file} is a folder", param_hint="'--json'")
