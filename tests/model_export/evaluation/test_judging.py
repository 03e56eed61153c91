"""A scripted model's answers and scores, whatever the batches."""

from __future__ import annotations

import math

import pytest

from model_export.evaluation.data import EvaluationData
from model_export.evaluation.fitting import fit
from model_export.evaluation.judging import Judgement, judge
from model_export.evaluation.measures import AnswerMetrics
from model_export.evaluation.subject import Options
from model_export.text.progress import OnProgress, silent
from tests.support.scripted_subject import ScriptedSubject

DATA = EvaluationData(["ccc", "a", "bb"], [["un deux trois quatre", "x"], ["cinq six sept huit"], ["yz"]])
ANSWERS = {"ccc": "un deux trois quatre", "a": "cinq six sept huit", "bb": ""}


def judged(
    subject: ScriptedSubject, options: Options | None = None, batch_size: int = 2, on_progress: OnProgress = silent
) -> Judgement:
    fitted = fit([subject], DATA, "skip")
    subject.calls.clear()
    return judge(subject, fitted.questions[0], AnswerMetrics(DATA.targets), options or {}, batch_size, on_progress)


def test_answers_and_scores_by_hand() -> None:
    found = judged(ScriptedSubject(ANSWERS, log_prob=-0.5, ranks={"y": 2, "z": 1}))

    assert found.answers == [ANSWERS[source] for source in DATA.sources]
    assert found.new_tokens == 21 + 19 + 1
    measures = {measure.name: measure.score() for measure in found.measures}
    tokens = 21 + 2 + 19 + 3
    assert measures["loss"] == 0.5
    assert measures["perplexity"] == pytest.approx(math.exp(0.5))
    assert measures["accuracy"] == pytest.approx((tokens - 2) / tokens)
    assert measures["nats_per_character"] == pytest.approx(0.5 * tokens / (tokens - 4))
    assert 80 < measures["bleu"] < 100  # type: ignore[operator]  # two perfect answers, one missing


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_batches_change_nothing(batch_size: int) -> None:
    one, other = judged(ScriptedSubject(ANSWERS), batch_size=batch_size), judged(ScriptedSubject(ANSWERS))

    assert one.answers == other.answers
    assert [each.score() for each in one.measures] == [each.score() for each in other.measures]


def test_texts_of_like_length_go_together_after_a_call_to_warm_up() -> None:
    subject = ScriptedSubject(ANSWERS)

    judged(subject, {"beam_size": 2})

    assert [(kind, texts) for kind, texts, _ in subject.calls] == [
        ("generate", ["a", "bb"]),
        ("generate", ["a", "bb"]),
        ("generate", ["ccc"]),
        ("score", ["x", "yz"]),
        ("score", ["cinq six sept huit", "un deux trois quatre"]),
    ]
    assert {tuple(options.items()) for kind, _, options in subject.calls if kind == "generate"} == {(("beam_size", 2),)}


@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_sampled_answer_has_a_seed_of_its_own(batch_size: int) -> None:
    subject = ScriptedSubject(ANSWERS)

    judged(subject, {"do_sample": True, "seed": 7}, batch_size)

    (_, *calls) = [call for call in subject.calls if call[0] == "generate"]
    seeds = {text: options["seed"] + place for _, texts, options in calls for place, text in enumerate(texts)}
    assert seeds == {"a": 7, "bb": 8, "ccc": 9}


def test_only_the_calls_that_count_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 200.0, 201.0, 300.0, 302.5])  # start and end of the warm-up, and of two calls
    monkeypatch.setattr("model_export.evaluation.judging.time.perf_counter", lambda: next(clock))

    assert judged(ScriptedSubject(ANSWERS)).seconds == 3.5


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []

    judged(ScriptedSubject(ANSWERS), on_progress=lambda *stage: told.append(stage))

    assert told == [
        ("answers of scripted", 0, 3),
        ("answers of scripted", 0, 3),
        ("answers of scripted", 2, 3),
        ("scores by scripted", 0, 4),
        ("scores by scripted", 2, 4),
        ("BLEU and chrF", 0, 0),
    ]
