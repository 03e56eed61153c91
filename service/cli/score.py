"""``malgil score``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import options
from service.cli.console import Debug, given, one_line_errors
from service.cli.formats import from_tsv, json_line, tsv
from service.cli.lines import of_arguments, of_file
from service.cli.options import PARALLEL, Service, destination, selection
from service.cli.run import Job, Output, run
from service.errors import InvalidRequest

Pair = tuple[str, str]


@one_line_errors
def score(
    pair: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE TARGET]", help="Without: --input.", show_default=False)
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option("--input", "-i", metavar="FILE", help="Lines of source, tab, target; - or none: standard input."),
    ] = None,
    output: options.Output = None,
    resume: options.Resume = False,
    force: options.Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each pair.")] = False,
    details: Annotated[
        bool | None, typer.Option("--details", help="With --json: tokens, log-probabilities and ranks.")
    ] = None,
    align: Annotated[
        bool | None, typer.Option("--align", help="With --json: attention of each token of the target to the source.")
    ] = None,
    url: options.Url = "http://127.0.0.1:8000",
    models: options.Models = None,
    model: options.Model = None,
    model_version: options.ModelVersion = None,
    truncate: options.Truncate = None,
    parallel: options.Parallel = PARALLEL,
    lines_per_call: options.LinesPerCall = 32,
    timeout_s: options.Timeout = 60.0,
    debug: Debug = False,
) -> None:
    """Say how likely targets are: a line of score, tab, perplexity for every pair, in their order.

    The score is the log-probability of the target given the source (natural logarithm), the end included. Pairs are
    lines as `malgil generate --tsv` writes them; columns behind the second are not read. An empty line stays one.

    \b
    Examples:
      malgil score --model en-fr 'Be nice.' 'Sois gentil.'
      malgil score --input pairs.tsv --output scores.tsv
      malgil generate --tsv < texts.txt | malgil score --json --details
    """
    if pair and pairs is not None:
        raise InvalidRequest("a pair is given as arguments and by --input: choose one of them")
    if pair and len(pair) != 2:
        raise InvalidRequest(f"a source and a target make a pair: {len(pair)} arguments were given, not 2")
    for flag, is_given in (("--details", details), ("--align", align)):
        if is_given and not as_json:
            raise InvalidRequest(f"{flag} shows only with --json")
    parameters = given({"truncate": truncate, "details": details, "align": align})
    lines = of_arguments([tsv(*pair)], lambda place: "the pair") if pair else of_file(pairs)
    to = destination(output, pairs, resume=resume, force=force)
    job = _job(selection(model, model_version), parameters, as_json)
    run(job, lines, Service(url, models, timeout_s, parallel, lines_per_call), to)


def _job(selected: dict[str, Any], parameters: dict[str, Any], as_json: bool) -> Job[Pair]:
    def body(pairs: Sequence[Pair], asked_before: int) -> dict[str, Any]:
        inputs, targets = [source for source, _ in pairs], [target for _, target in pairs]
        return {**selected, "inputs": inputs, "targets": targets, "parameters": parameters}

    def written(pair: Pair, output: Output) -> str:
        if as_json:
            return json_line({"input": pair[0], "target": pair[1], **output})
        return tsv(output["score"], output["perplexity"])

    return Job(
        endpoint="score",
        work={"command": "score", "format": "json" if as_json else "tsv", **parameters},
        parse=_pair,
        body=body,
        written=written,
        written_empty=lambda line: json_line({"input": "", "target": ""}) if as_json else tsv("", ""),
        elements={"inputs": "the source in ", "targets": "the target in "},
    )


def _pair(line: str) -> Pair | None:
    source, *others = from_tsv(line)
    if not source.strip() and not (others and others[0].strip()):
        return None
    if not others:
        raise InvalidRequest("has no tab between a source and a target")
    return source, others[0]
