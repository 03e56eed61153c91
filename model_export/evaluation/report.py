"""What was found, as JSON values and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.table import Table

from model_export.evaluation.bootstrap import Difference
from model_export.evaluation.buckets import FEW, Bucket
from model_export.evaluation.fitting import Fitted
from model_export.evaluation.judging import Judgement

Facts = dict[str, Any]

_DIGITS: Final = {
    "bleu": 2,
    "chrf": 2,
    "loss": 4,
    "perplexity": 4,
    "accuracy": 4,
    "nats_per_character": 4,
    "sentences_per_second": 1,
    "tokens_per_second": 0,
}
"""That are shown of each figure; JSON has all."""
_HEADINGS: Final = {"bleu": "BLEU", "chrf": "chrF", "nats_per_character": "nats/char"}
_PLACES: Final = ("first", "second")
_OF_BUCKETS: Final = ("bleu", "chrf", "perplexity", "accuracy", "nats_per_character")


# --- JSON ---------------------------------------------------------------------------------------------------------


def data_facts(fitted: Fitted) -> Facts:
    """How much the models were judged on, and what was not."""
    return {
        "sources": len(fitted.data.sources),
        "references": fitted.data.pair_count,
        "scored_pairs": len(fitted.questions[0].pairs),
        "skipped_sources": fitted.skipped_sources,
        "unscored_pairs": fitted.unscored_pairs,
    }


def model_facts(judgement: Judgement, buckets: Sequence[Bucket], cut_sources: int, cut_targets: int) -> Facts:
    """Everything that is known of one model."""
    return {
        "model": judgement.title,
        **{measure.name: measure.score() for measure in judgement.measures},
        "sentences_per_second": len(judgement.answers) / judgement.seconds,
        "tokens_per_second": judgement.new_tokens / judgement.seconds,
        "generation_seconds": judgement.seconds,
        "new_tokens": judgement.new_tokens,
        "truncated_sources": cut_sources,
        "truncated_targets": cut_targets,
        "buckets": [
            {
                "shortest": bucket.shortest,
                "longest": bucket.longest,
                "sources": len(bucket.rows),
                "few_sources": bucket.is_small,
                **{measure.name: measure.score(bucket.rows) for measure in judgement.measures},
            }
            for bucket in buckets
        ],
    }


def comparison_facts(
    first: Judgement, second: Judgement, differences: Sequence[Difference], samples: int, seed: int, same_tokens: bool
) -> Facts:
    """The second model against the first."""
    same = sum(one == other for one, other in zip(first.answers, second.answers, strict=True))
    return {
        "identical_outputs": same / len(first.answers),
        "same_tokens": same_tokens,
        "test": {"name": "paired bootstrap resampling", "samples": samples, "seed": seed},
        "differences": {each.name: {k: v for k, v in asdict(each).items() if k != "name"} for each in differences},
    }


# --- tables -------------------------------------------------------------------------------------------------------


def tables(facts: Facts) -> list[Table]:
    """Of all sources, and by the length of sources."""
    return [_overall_table(facts), _bucket_table(facts)]


def notes(facts: Facts) -> list[str]:
    """What has to be known to read the tables."""
    data = facts["data"]
    lines = [f"{figure_heading(name)}: {signature}" for name, signature in facts["signatures"].items()]
    counts = {
        "sources were too long, and skipped": data["skipped_sources"],
        "targets were too long to be scored, and are references only": data["unscored_pairs"],
    }
    lines += [f"{count} {what}" for what, count in counts.items() if count]
    for model in facts["models"]:
        if model["truncated_sources"] or model["truncated_targets"]:
            cut = f"{model['truncated_sources']} sources and {model['truncated_targets']} targets"
            lines.append(f"{model['model']}: {cut} were too long, and truncated")
    if any(bucket["few_sources"] for bucket in facts["models"][0]["buckets"]):
        lines.append(f"* fewer than {FEW} sources: such scores say little")
    if "comparison" in facts:
        lines = [f"{place}: {model['model']}" for place, model in zip(_PLACES, facts["models"], strict=True)] + lines
        lines += _comparison_notes(facts["comparison"])
    return lines


def _comparison_notes(comparison: Facts) -> list[str]:
    test = comparison["test"]
    lines = [
        f"{comparison['identical_outputs']:.1%} of the answers are identical",
        f"difference: second minus first, with its 95 % interval and p-value by {test['name']} "
        f"({test['samples']} samples, seed {test['seed']})",
    ]
    if not comparison["same_tokens"]:
        lines.append("the models' tokens differ: losses per token are not compared, nats per character are")
    return lines


def _overall_table(facts: Facts) -> Table:
    data, models = facts["data"], facts["models"]
    table = Table(title=f"{data['sources']:,} sources, {data['references']:,} references")
    table.add_column("")
    for heading in _PLACES if len(models) > 1 else [models[0]["model"]]:
        table.add_column(heading, justify="right", overflow="fold")
    differences = facts.get("comparison", {}).get("differences", {})
    for heading in ("difference", "95 % interval", "p") if "comparison" in facts else ():
        table.add_column(heading, justify="right", no_wrap=True)
    for name in _DIGITS:
        row = [figure_heading(name), *(_shown(name, model) for model in models)]
        if name in differences:
            row += _difference_cells(differences[name], _DIGITS[name])
        table.add_row(*row)
    return table


def _difference_cells(found: Facts, digits: int) -> list[str]:
    p_value = found["p_value"]
    return [
        f"{found['difference']:+.{digits}f}",
        f"{found['low']:+.{digits}f} … {found['high']:+.{digits}f}",
        "same" if p_value is None else f"{p_value:.3f}",
    ]


def _bucket_table(facts: Facts) -> Table:
    models = facts["models"]
    table = Table(title="by source tokens", show_lines=len(models) > 1)
    for heading in ("tokens", "sources", *map(figure_heading, _OF_BUCKETS)):
        table.add_column(heading, justify="right")
    for buckets in zip(*(model["buckets"] for model in models), strict=True):
        first = buckets[0]
        span = "–".join(map(str, sorted({first["shortest"], first["longest"]})))
        cells = ["\n".join(_shown(name, each) for each in buckets) for name in _OF_BUCKETS]
        table.add_row(span, f"{first['sources']:,}{'*' if first['few_sources'] else ''}", *cells)
    return table


def figure_heading(name: str) -> str:
    """What tables call a figure."""
    return _HEADINGS.get(name, name.replace("_", " "))


def _shown(name: str, figures: Facts) -> str:
    value = figures[name]
    return "–" if value is None else f"{value:,.{_DIGITS[name]}f}"
