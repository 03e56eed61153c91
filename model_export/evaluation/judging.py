"""A model's answers and scores for all the data, and what follows of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model_export.contract import OPTIONS
from model_export.evaluation.fitting import Questions
from model_export.evaluation.measures import AnswerMetrics, Measure, likelihood_measures
from model_export.evaluation.subject import Options, Scored, Subject, Written
from model_export.text.progress import OnProgress, silent

Result = TypeVar("Result")


@dataclass(frozen=True)
class Judgement:
    """What is known of one model."""

    title: str
    answers: list[str]  # to each source
    measures: list[Measure]
    new_tokens: int
    """Of all answers, EOS included."""
    seconds: float
    """Wall-clock time of the calls that gave the answers."""


def judge(
    subject: Subject,
    questions: Questions,
    metrics: AnswerMetrics,
    options: Options,
    batch_size: int = 32,
    on_progress: OnProgress = silent,
) -> Judgement:
    """Let the model answer every source and score every target, texts of like length together.

    A sampled answer depends on ``seed`` and on the place of its source among those sorted by length, not on batches.

    Raises:
        UserError: the model refuses the options, or fails.
    """
    answers, seconds = _answers(subject, questions, options, batch_size, on_progress)
    written = [answer.text for answer in answers]
    scored = _scores(subject, questions, batch_size, on_progress)
    on_progress("BLEU and chrF", 0, 0)
    likelihoods = likelihood_measures(questions.pairs, scored, len(questions.sources))
    return Judgement(
        title=subject.title,
        answers=written,
        measures=[*metrics.measures(written), *likelihoods],
        new_tokens=sum(answer.tokens for answer in answers),
        seconds=seconds,
    )


def _answers(
    subject: Subject, questions: Questions, options: Options, batch_size: int, on_progress: OnProgress
) -> tuple[list[Written], float]:
    """In the order of the questions, and how long they took; a first call, which is slower, is made for nothing."""
    seed = options.get("seed", OPTIONS["seed"].neutral)
    durations: list[float] = []

    def ask(first: int, rows: NDArray[np.int64]) -> list[Written]:
        told = {**options, "seed": seed + first} if options.get("do_sample") else options
        start = time.perf_counter()
        written = subject.generate([questions.sources[row] for row in rows], told)
        durations.append(time.perf_counter() - start)
        return written

    stage = f"answers of {subject.title}"
    order = np.argsort(questions.source_tokens, kind="stable")
    on_progress(stage, 0, len(order))
    ask(0, order[:batch_size])
    return _in_batches(order, batch_size, ask, stage, on_progress), sum(durations[1:])


def _scores(subject: Subject, questions: Questions, batch_size: int, on_progress: OnProgress) -> list[Scored]:
    """Of each pair."""
    sources = np.array([pair.source for pair in questions.pairs], np.int64)

    def score(_: int, rows: NDArray[np.int64]) -> list[Scored]:
        pairs = [questions.pairs[row] for row in rows]
        return subject.score([questions.sources[pair.source] for pair in pairs], [pair.target for pair in pairs])

    order = np.lexsort((questions.source_tokens[sources], questions.pair_tokens))
    return _in_batches(order, batch_size, score, f"scores by {subject.title}", on_progress)


def _in_batches(
    order: NDArray[np.int64],
    batch_size: int,
    call: Callable[[int, NDArray[np.int64]], list[Result]],
    stage: str,
    on_progress: OnProgress,
) -> list[Result]:
    """What ``call`` makes of the rows, taken in this order, in the order of the rows."""
    results: dict[int, Result] = {}
    for first in range(0, len(order), batch_size):
        on_progress(stage, first, len(order))
        rows = order[first : first + batch_size]
        results.update(zip(rows.tolist(), call(first, rows), strict=True))
    return [results[row] for row in range(len(order))]
