"""``malgil generate``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import options
from service.cli.answers_file import progress_of
from service.cli.console import Debug, given, notes, one_line_errors
from service.cli.formats import json_line, plain, tsv
from service.cli.lines import of_arguments, of_file
from service.cli.options import PARALLEL, Destination, Service, destination, selection
from service.cli.run import Job, Output, run
from service.errors import InvalidRequest
from service.generation import DRAWN_SEEDS, SEEDS


@one_line_errors
def generate(
    texts: Annotated[list[str] | None, typer.Argument(help="Without any: --input.", show_default=False)] = None,
    source: Annotated[
        Path | None,
        typer.Option("--input", "-i", metavar="FILE", help="One text a line; - or none: standard input."),
    ] = None,
    output: options.Output = None,
    resume: options.Resume = False,
    force: options.Force = False,
    as_tsv: Annotated[bool, typer.Option("--tsv", help="Lines of input, tab, answer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each text.")] = False,
    url: options.Url = "http://127.0.0.1:8000",
    models: options.Models = None,
    model: options.Model = None,
    model_version: options.ModelVersion = None,
    beam_size: Annotated[int | None, typer.Option(help="Hypotheses kept alive; 1 is greedy search.")] = None,
    num_hypotheses: Annotated[int | None, typer.Option(help="Answers for each text, best first.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    min_new_tokens: Annotated[int | None, typer.Option(help="Shortest answer, in tokens.")] = None,
    length_penalty: Annotated[float | None, typer.Option(help="Rank by log-probability / length ** penalty.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Text that every answer begins with.")] = None,
    do_sample: Annotated[bool | None, typer.Option("--do-sample", help="Draw tokens instead of searching.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Logits are divided by it when sampling.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample among the k likeliest tokens; 0: among all.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample among the fewest likeliest tokens of at least this probability.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=SEEDS - 1, help="Of the first text, counted on; drawn and told if missing.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: tokens that are there already become less likely.")
    ] = None,
    no_repeat_ngram_size: Annotated[int | None, typer.Option(help="No n-gram of this size occurs twice.")] = None,
    disable_unk: Annotated[bool | None, typer.Option("--disable-unk", help="Never answer the unknown token.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Answers end before it; may be given several times.")
    ] = None,
    truncate: options.Truncate = None,
    details: Annotated[
        bool | None, typer.Option("--details", help="With --json: tokens and log-probabilities.")
    ] = None,
    parallel: options.Parallel = PARALLEL,
    lines_per_call: options.LinesPerCall = 32,
    timeout_s: options.Timeout = 60.0,
    debug: Debug = False,
) -> None:
    """Generate from texts; one line for every hypothesis, in the order of the texts. An empty line stays one.

    --output is a file that an interrupted run leaves so that the same command with --resume completes it.

    \b
    Examples:
      malgil generate --model en-fr 'Be nice.' 'Get out!'
      malgil generate --models build/models --model en-fr --beam-size 4 --num-hypotheses 2 'Be nice.'
      malgil generate --input texts.txt --output answers.tsv --tsv
      malgil generate --input texts.txt --output answers.tsv --tsv --resume
      malgil generate --do-sample --temperature 0.8 --seed 7 --json < texts.txt > answers.jsonl
    """
    if texts and source is not None:
        raise InvalidRequest("texts are given as arguments and by --input: choose one of them")
    if as_tsv and as_json:
        raise InvalidRequest("--tsv and --json exclude each other")
    if details and not as_json:
        raise InvalidRequest("--details shows only with --json")
    parameters = given(
        {
            "beam_size": beam_size,
            "num_hypotheses": num_hypotheses,
            "max_new_tokens": max_new_tokens,
            "min_new_tokens": min_new_tokens,
            "length_penalty": length_penalty,
            "prefix": prefix,
            "do_sample": do_sample,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
            "repetition_penalty": repetition_penalty,
            "no_repeat_ngram_size": no_repeat_ngram_size,
            "disable_unk": disable_unk,
            "stop": stop or None,
            "truncate": truncate,
            "details": details,
        }
    )
    lines = of_arguments(texts, lambda place: f"text {place}") if texts else of_file(source)
    to = destination(output, source, resume=resume, force=force)
    if do_sample and seed is None:
        parameters["seed"] = _seed(to)
    job = _job(selection(model, model_version), parameters, "json" if as_json else "tsv" if as_tsv else "text")
    run(job, lines, Service(url, models, timeout_s, parallel, lines_per_call), to)


def _seed(to: Destination) -> int:
    """That of the run that is gone on with; else one that is drawn and told, so that the answers can be had again."""
    told = progress_of(to.path) if to.resume and to.path else None
    if told and "seed" in told.work:
        return int(told.work["seed"])
    seed = secrets.randbelow(DRAWN_SEEDS)
    notes().print(f"sampling with --seed {seed}", highlight=False)
    return seed


def _job(selected: dict[str, Any], parameters: dict[str, Any], form: str) -> Job[str]:
    def body(texts: Sequence[str], asked_before: int) -> dict[str, Any]:
        asked = dict(parameters)
        if "seed" in asked:  # the server counts on from it within a call
            asked["seed"] = (asked["seed"] + asked_before) % SEEDS
        return {**selected, "inputs": texts, "parameters": asked}

    written, written_empty = _form(form, parameters.get("num_hypotheses", 1))
    return Job(
        endpoint="generate",
        work={"command": "generate", "format": form, **parameters},
        parse=lambda line: None if not line or line.isspace() else line,
        body=body,
        written=written,
        written_empty=written_empty,
    )


def _form(form: str, num_hypotheses: int) -> tuple[Callable[[str, Output], str], Callable[[str], str]]:
    """How an answer is written, and that to an empty line."""
    if form == "json":
        return (
            lambda text, output: json_line({"input": text, **output}),
            lambda line: json_line({"input": line, "generated_text": "", "hypotheses": []}),
        )
    places = range(1, num_hypotheses + 1)
    if form == "text":
        return (
            lambda text, output: "\n".join(plain(each["text"]) for each in output["hypotheses"]),
            lambda line: "\n".join("" for _ in places),
        )
    if num_hypotheses == 1:
        return lambda text, output: tsv(text, output["hypotheses"][0]["text"]), lambda line: tsv(line, "")
    return (
        lambda text, output: "\n".join(
            tsv(text, each["text"], place, each["score"]) for place, each in enumerate(output["hypotheses"], 1)
        ),
        lambda line: "\n".join(tsv(line, "", place, "") for place in places),
    )
