"""An evaluation from data to facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from model_export.evaluation import bootstrap, report
from model_export.evaluation.buckets import by_length
from model_export.evaluation.data import EvaluationData
from model_export.evaluation.fitting import Fitted, Overlong, fit
from model_export.evaluation.judging import Judgement, judge
from model_export.evaluation.measures import PER_TOKEN, AnswerMetrics
from model_export.evaluation.subject import Options, Subject
from model_export.text.progress import OnProgress, silent


@dataclass(frozen=True)
class EvaluationOptions:
    """How to judge."""

    decoding: Options = field(default_factory=dict)
    overlong: Overlong = "skip"
    bleu_tokenizer: str = "13a"
    batch_size: int = 32
    buckets: int = 4
    samples: int = bootstrap.SAMPLES
    """Resamples of the sources, from which the significance of differences comes."""
    seed: int = bootstrap.SEED
    """Of the resamples."""


def evaluate(
    subjects: Sequence[Subject], data: EvaluationData, options: EvaluationOptions, on_progress: OnProgress = silent
) -> report.Facts:
    """Judge one model, or two on the same texts and the second against the first.

    Raises:
        UserError: a model refuses the options or fails, or there is nothing to judge it on.
    """
    fitted = fit(subjects, data, options.overlong, on_progress)
    metrics = AnswerMetrics(fitted.data.targets, options.bleu_tokenizer)
    judgements = [
        judge(subject, questions, metrics, options.decoding, options.batch_size, on_progress)
        for subject, questions in zip(subjects, fitted.questions, strict=True)
    ]
    buckets = by_length(fitted.questions[0].source_tokens, options.buckets)
    facts = {
        "data": report.data_facts(fitted),
        "decoding": dict(options.decoding),
        "signatures": metrics.signatures,
        "models": [
            report.model_facts(judgement, buckets, questions.cut_sources, questions.cut_targets)
            for judgement, questions in zip(judgements, fitted.questions, strict=True)
        ],
    }
    if len(judgements) == 2:
        facts["comparison"] = _compared(judgements, fitted, options, on_progress)
    return facts


def _compared(
    judgements: Sequence[Judgement], fitted: Fitted, options: EvaluationOptions, on_progress: OnProgress
) -> report.Facts:
    first, second = judgements
    same_tokens = fitted.questions[0].target_ids == fitted.questions[1].target_ids
    ours, theirs = (
        [measure for measure in each.measures if same_tokens or measure.name not in PER_TOKEN] for each in judgements
    )
    differences = bootstrap.compare(ours, theirs, options.samples, options.seed, on_progress)
    return report.comparison_facts(first, second, differences, options.samples, options.seed, same_tokens)
