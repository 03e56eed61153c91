"""What a dtype costs in quality: models exported in other dtypes beside the float32 one, on held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from rich.table import Table

from model_export.evaluation import bootstrap, report
from model_export.evaluation.data import EvaluationData
from model_export.evaluation.fitting import Fitted, fit
from model_export.evaluation.judging import Judgement, judge
from model_export.evaluation.measures import AnswerMetrics
from model_export.evaluation.run import EvaluationOptions
from model_export.evaluation.subject import Subject
from model_export.text.progress import OnProgress, silent

Facts = dict[str, Any]

MOST_LOSS: Final = 0.01
"""Nats per token that a dtype may add to float32's loss."""
SAME_AS_FLOAT32: Final[Mapping[str, float]] = {"bfloat16": 0.98, "int8": 0.95, "int8 static": 0.93}
"""Share of answers, by kind of arithmetic, that is to be identical to float32's."""
SAME_ALONE: Final[Mapping[str, float]] = {"float32": 1.0, "bfloat16": 0.98, "int8": 0.98, "int8 static": 0.98}
"""Share of answers that is to be identical, asked alone and in batches."""
_MOST_ALONE = 1000  # sources that are asked alone too

_SHOWN: Final = {"loss": 4, "bleu": 2, "chrf": 2}


class Variant(NamedTuple):
    """A model in one kind of arithmetic."""

    kind: str  # a key of ``SAME_ALONE``
    subject: Subject


@dataclass(frozen=True, slots=True)
class _Judged:
    variant: Variant
    judgement: Judgement
    same_alone: float


def measure_quality(
    variants: Sequence[Variant], data: EvaluationData, options: EvaluationOptions, on_progress: OnProgress = silent
) -> Facts:
    """Judge every variant on the same, and compare it with the first, which is the float32 one; as JSON values.

    Raises:
        UserError: a model fails, or there is nothing to judge it on.
    """
    fitted = fit([variant.subject for variant in variants], data, options.overlong, on_progress)
    metrics = AnswerMetrics(fitted.data.targets, options.bleu_tokenizer)
    judged = [_judge(variant, fitted, place, metrics, options, on_progress) for place, variant in enumerate(variants)]
    return {
        "data": report.data_facts(fitted),
        "signatures": metrics.signatures,
        "models": [_model_facts(each, judged[0], options, on_progress) for each in judged],
    }


def _judge(
    variant: Variant,
    fitted: Fitted,
    place: int,
    metrics: AnswerMetrics,
    options: EvaluationOptions,
    on_progress: OnProgress,
) -> _Judged:
    questions = fitted.questions[place]
    judgement = judge(variant.subject, questions, metrics, options.decoding, options.batch_size, on_progress)
    sources = questions.sources
    rows = np.linspace(0, len(sources) - 1, min(_MOST_ALONE, len(sources))).round().astype(int).tolist()
    same = 0
    for done, row in enumerate(rows):
        on_progress(f"answers of {variant.subject.title}, one at a time", done, len(rows))
        (alone,) = variant.subject.generate([sources[row]], options.decoding)
        same += alone.text == judgement.answers[row]
    return _Judged(variant, judgement, same / len(rows))


def _model_facts(judged: _Judged, baseline: _Judged, options: EvaluationOptions, on_progress: OnProgress) -> Facts:
    measures = {measure.name: measure for measure in judged.judgement.measures}
    facts: Facts = {
        "model": judged.judgement.title,
        "kind": judged.variant.kind,
        **{name: measure.score() for name, measure in measures.items()},
        "intervals": {name: bootstrap.interval(measures[name], options.samples, options.seed) for name in _SHOWN},
        "identical_alone_and_batched": judged.same_alone,
    }
    if judged is not baseline:
        first, second = baseline.judgement, judged.judgement
        differences = bootstrap.compare(first.measures, second.measures, options.samples, options.seed, on_progress)
        facts["comparison"] = report.comparison_facts(
            first, second, differences, options.samples, options.seed, same_tokens=True
        )
    return facts


# --- what it means ------------------------------------------------------------------------------------------------


def missed_floors(facts: Facts) -> list[str]:
    """A sentence for every promise about dtypes that the measured models do not keep."""
    return [f"{model['model']}: {missed}" for model in facts["models"] for missed in _missed(model, facts["models"][0])]


def _missed(model: Facts, baseline: Facts) -> list[str]:
    missed, kind = [], model["kind"]
    alone = model["identical_alone_and_batched"]
    if alone < SAME_ALONE[kind]:
        missed.append(f"{alone:.1%} of the answers are the same alone and batched, less than {SAME_ALONE[kind]:.0%}")
    if "comparison" not in model:
        return missed
    rise, same = model["loss"] - baseline["loss"], model["comparison"]["identical_outputs"]
    if rise > MOST_LOSS:
        missed.append(f"the loss rises by {rise:.4f} nats per token, more than {MOST_LOSS}")
    low, high = baseline["intervals"]["bleu"]
    if not low <= model["bleu"] <= high:
        missed.append(f"BLEU {model['bleu']:.2f} is outside float32's interval, {low:.2f} to {high:.2f}")
    if same < SAME_AS_FLOAT32[kind]:
        missed.append(f"{same:.1%} of the answers are those of float32, less than {SAME_AS_FLOAT32[kind]:.0%}")
    return missed


def quality_table(facts: Facts) -> Table:
    """Every model a column, the float32 one first."""
    models, data = facts["models"], facts["data"]
    table = Table(title=f"{data['sources']:,} sources, {data['scored_pairs']:,} scored pairs, 95 % intervals")
    table.add_column("")
    for model in models:
        table.add_column(model["kind"], justify="right")
    for name, digits in _SHOWN.items():
        table.add_row(report.figure_heading(name), *(_with_interval(model, name, digits) for model in models))
        table.add_row("  beside float32", *(_difference(model, name, digits) for model in models))
    same = (f"{each['comparison']['identical_outputs']:.1%}" if "comparison" in each else "" for each in models)
    table.add_row("same answers as float32", *same)
    table.add_row("same alone and batched", *(f"{each['identical_alone_and_batched']:.1%}" for each in models))
    return table


def _with_interval(model: Facts, name: str, digits: int) -> str:
    low, high = model["intervals"][name]
    return f"{model[name]:.{digits}f}\n{low:.{digits}f} … {high:.{digits}f}"


def _difference(model: Facts, name: str, digits: int) -> str:
    found = model.get("comparison", {}).get("differences", {}).get(name)
    if found is None:
        return ""
    span = f"{found['low']:+.{digits}f} … {found['high']:+.{digits}f}"
    return f"{found['difference']:+.{digits}f}\n{span}"
