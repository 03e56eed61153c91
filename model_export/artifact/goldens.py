"""The golden inputs of the parity certificate, and what the live model answers.

A case is kept only when its answer stays the same under random perturbations of the logits, and is the same in a batch
and alone, so that a replay on another machine or through another runtime differs only if something is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, NamedTuple

import tensorflow as tf

from model_export.artifact.calls import (
    Answer,
    Row,
    Signature,
    generate_ids_inputs,
    generate_inputs,
    read_answers,
    text_array,
)
from model_export.artifact.golden_texts import GoldenTexts
from model_export.config import UserError
from model_export.contract import (
    MINIMUM_GOLDEN_CASES,
    Certificate,
    Dtype,
    FinishReason,
    GoldenCase,
    Limits,
)
from model_export.decoding.step import DecoderStep
from model_export.text.progress import OnProgress, silent
from model_export.text.tokenizers import EOS_ID

STAGE: Final = "making the certificate"
"""What ``make_certificate`` tells its ``on_progress``, with the kinds of cases that are done."""


class Noise(NamedTuple):
    """How far a dtype's rounding may move a model: between machines, batches and orders of summation."""

    logits: float
    """Perturbation that an answer must survive."""
    score: float
    """Tolerance on a score, a sum over all tokens of a hypothesis."""


NOISE: Final[Mapping[Dtype, Noise]] = {
    "float32": Noise(1e-3, 1e-3),
    "bfloat16": Noise(0.05, 0.1),
    "int8": Noise(0.1, 0.2),
}
"""By what was measured (docs/decisions/0020). Logits differ by some 1e-5 in float32, by 0.03 in bfloat16, and in int8,
where a value that rounds the other way is a whole step off, by 0.097 at most. Scores: 1e-5, 0.02 and 0.08."""

_NOISY_RUNS = 3
_MAX_NEW_TOKENS = 16  # short answers make a replay fast
_BEAM_SIZE = 4
_SEED = 7


class GoldenError(UserError):
    """The model gives too few answers that would survive rounding, so there can be no certificate."""


class NoisyStep:
    """A ``DecoderStep`` whose logits are off by up to ``noise`` either way, differently at every call."""

    def __init__(self, step: DecoderStep[Any], noise: float) -> None:
        self._step = step
        self._noise = noise
        self._generator = tf.random.Generator.from_seed(0)
        self.start, self.prefill = step.start, step.prefill
        self.reorder, self.select, self.grow = step.reorder, step.select, step.grow

    def __call__(self, ids: tf.Tensor, positions: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        """See ``DecoderStep.__call__``."""
        logits, state = self._step(ids, positions, state)
        return logits + self._generator.uniform(tf.shape(logits), -self._noise, self._noise), state


@dataclass(frozen=True, slots=True)
class _Kind:
    """What one or more cases are to show, and candidates for it, the most telling first."""

    name: str
    wanted: int
    rows: Sequence[Row]


def make_certificate(
    live: Mapping[str, Signature],
    noisy: Signature,
    rounds: Sequence[GoldenTexts],
    limits: Limits,
    on_progress: OnProgress = silent,
    noise: Noise = NOISE["float32"],
) -> Certificate:
    """Cases of every kind with the live model's answers.

    Args:
        live: ``tokenize`` and ``generate`` of the live model.
        noisy: ``generate_ids`` of the same model over a ``NoisyStep`` of ``noise.logits``.
        rounds: what to ask; a later one only of kinds that have too few cases by then.
        limits: the model's bounds.
        on_progress: called after each kind of cases.
        noise: of the model's dtype.

    Raises:
        GoldenError: a kind without a single robust case, or fewer than ``MINIMUM_GOLDEN_CASES`` cases.
    """
    found: dict[str, list[GoldenCase]] = {}
    to_be_asked: set[str] = set()  # limits may leave a kind without a row that fits
    on_progress(STAGE, 0, 0)  # before it is known how many kinds there are, prefixes need answers
    for number, texts in enumerate(rounds):
        kinds = _kinds(live, texts, limits, _SEED + number)
        for done, kind in enumerate(kinds, start=1):
            cases = found.setdefault(kind.name, [])
            if len(cases) < kind.wanted and kind.rows:
                to_be_asked.add(kind.name)
                cases += _robust_cases(kind, len(cases), live["generate"], noisy)
            on_progress(STAGE, done, len(kinds))
        if all(len(found[kind.name]) >= kind.wanted for kind in kinds):
            break
    missing = [name for name, cases in found.items() if not cases and name in to_be_asked]
    if missing:
        raise GoldenError(
            f"no golden case for {', '.join(missing)}: every answer tried changes when logits move by {noise.logits}, "
            "or is another one alone than in a batch, as those of a model that was hardly trained"
        )
    all_cases = tuple(case for cases in found.values() for case in cases)
    if len(all_cases) < MINIMUM_GOLDEN_CASES:
        raise GoldenError(
            f"only {len(all_cases)} golden cases keep their answer under noise and alone, "
            f"{MINIMUM_GOLDEN_CASES} are needed"
        )
    return Certificate(score_tolerance=noise.score, logit_noise=noise.logits, cases=all_cases)


def _kinds(live: Mapping[str, Signature], texts: GoldenTexts, limits: Limits, seed: int) -> list[_Kind]:
    """Every kind of case; greedy ones come last and make up the number. What is sampled has ``seed``."""

    def rows(candidates: Iterable[str], **options: float) -> list[Row]:
        bounded = {"max_new_tokens": min(_MAX_NEW_TOKENS, limits.max_target_tokens), **options}
        return [replace(row, options=bounded) for row in plain_rows(live["tokenize"], candidates, limits)]

    plain = plain_rows(live["tokenize"], texts.samples, limits)
    by_length = sorted(plain, key=lambda row: len(row.source_ids))
    kinds = [
        _Kind("without options", 2, by_length),
        _Kind("shortest", 1, rows(texts.shortest)),
        _Kind("longest", 1, rows(row.text for row in reversed(by_length))),
        *(_Kind(f"script {script}", 1, rows(found)) for script, found in texts.by_script.items()),
        _Kind("beyond the vocabulary", 2, rows(texts.beyond_vocabulary)),
        _Kind("decomposed Korean", 1, rows(texts.decomposed_korean)),
        _Kind("min_new_tokens", 1, rows(texts.samples, min_new_tokens=min(8, limits.max_target_tokens))),
        _Kind("forced prefix", 2, _with_prefixes(rows(texts.samples), live["generate"], limits)),
    ]
    beam = min(_BEAM_SIZE, limits.max_beam_size)
    candidates = (*texts.decomposed_korean, *texts.samples)  # what a model does not know makes it repeat itself
    for name, options in _penalties_and_samples(beam, seed).items():
        kinds.append(_Kind(name, 1, _changed_first(rows(candidates, **options), live["generate"])))
    if beam > 1:
        kinds += [
            _Kind("beams without options", 1, [replace(row, options=_n_best(beam)) for row in by_length]),
            _Kind("n-best", 2, rows(texts.samples, **_n_best(beam))),
            _Kind("length_penalty 0", 1, rows(texts.samples, beam_size=beam, length_penalty=0.0)),
            _Kind("length_penalty 2", 1, rows(texts.samples, beam_size=beam, length_penalty=2.0)),
        ]
    so_far = sum(kind.wanted for kind in kinds)
    return [*kinds, _Kind("greedy", max(4, MINIMUM_GOLDEN_CASES - so_far), rows(reversed(texts.samples)))]


def _penalties_and_samples(beam_size: int, seed: int) -> dict[str, dict[str, float]]:
    """Options of the kinds that forbid, discourage or draw tokens, by their names."""
    sampled: dict[str, float] = {"do_sample": True, "seed": seed, "num_hypotheses": min(2, beam_size)}
    kinds: dict[str, dict[str, float]] = {
        "sampled": sampled,
        "sampled from top_k": sampled | {"top_k": 5},
        "sampled from top_p": sampled | {"top_p": 0.8},
        "sampled at temperature 0.5": sampled | {"temperature": 0.5},
        "repetition_penalty": {"repetition_penalty": 1.5},
        "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
        "disable_unk": {"disable_unk": True},
    }
    if beam_size > 1:
        penalties: dict[str, float] = {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "beam_size": beam_size}
        kinds["penalties with beams"] = penalties
    return kinds


def _changed_first(rows: Sequence[Row], generate: Signature) -> list[Row]:
    """Those first that would be answered otherwise without what is special about their options."""
    if not rows:
        return []
    kept = ("beam_size", "max_new_tokens")
    plain = [replace(row, options={name: row.option(name) for name in kept}) for row in rows]
    answers, others = (read_answers(generate(generate_inputs(asked)), asked) for asked in (rows, plain))
    is_same = [answer.ids[0] == other.ids[0] for answer, other in zip(answers, others, strict=True)]
    return [rows[index] for index in sorted(range(len(rows)), key=is_same.__getitem__)]


def _n_best(beam_size: int) -> dict[str, int]:
    return {"beam_size": beam_size, "num_hypotheses": beam_size}


def plain_rows(tokenize: Signature, texts: Iterable[str], limits: Limits) -> list[Row]:
    """A row for every text that fits, without options."""
    texts = list(texts)
    if not texts:
        return []
    outputs = tokenize({"texts": text_array(texts)})
    pairs = zip(outputs["ids"], outputs["lengths"], strict=True)
    framed = [(*ids[:length].tolist(), EOS_ID) for ids, length in pairs]
    return [Row(text, ids) for text, ids in zip(texts, framed, strict=True) if len(ids) <= limits.max_source_tokens]


def _with_prefixes(rows: Sequence[Row], generate: Signature, limits: Limits) -> list[Row]:
    """Every row with the first tokens of the next row's answer as its prefix; of its source, should that be empty."""
    if limits.max_target_tokens < 4 or not rows:
        return []
    answers = read_answers(generate(generate_inputs(rows)), rows)
    longest = min(_MAX_NEW_TOKENS, limits.max_target_tokens - 2)
    prefixed = []
    for row, answer in zip(rows, answers[1:] + answers[:1], strict=True):
        tokens = [token for token in answer.ids[0] if token != EOS_ID] or row.source_ids[:-1]
        prefixed.append(replace(row, options={"max_new_tokens": longest}, prefix_ids=tuple(tokens[:2])))
    return prefixed


def _robust_cases(kind: _Kind, there_are: int, live: Signature, noisy: Signature) -> list[GoldenCase]:
    """The first rows whose answer is the same at every run: as many as, with those ``there_are``, are wanted.

    The last run is of the row alone: products of other shapes round otherwise, which may be more than noise tells.
    """
    rows = list(kind.rows)
    answers = read_answers(live(generate_inputs(rows)), rows)
    perturbed = [read_answers(noisy(generate_ids_inputs(rows)), rows) for _ in range(_NOISY_RUNS)]
    robust = (
        (row, answer)
        for index, (row, answer) in enumerate(zip(rows, answers, strict=True))
        if _is_complete(answer)
        and all(_same_tokens(answer, run[index]) for run in perturbed)
        and _same_tokens(answer, read_answers(live(generate_inputs([row])), [row])[0])
    )
    wanted = islice(robust, kind.wanted - there_are)
    return [_case(f"{kind.name} {number}", *pair) for number, pair in enumerate(wanted, start=there_are + 1)]


def _is_complete(answer: Answer) -> bool:
    """Every hypothesis asked for is there, with a score that JSON can hold."""
    return FinishReason.NONE not in answer.finish_reasons and all(math.isfinite(score) for score in answer.scores)


def _same_tokens(one: Answer, other: Answer) -> bool:
    return one.ids == other.ids and one.finish_reasons == other.finish_reasons


def _case(name: str, row: Row, answer: Answer) -> GoldenCase:
    return GoldenCase(
        name=name,
        text=row.text,
        source_ids=row.source_ids,
        options=row.options,
        prefix_ids=row.prefix_ids,
        ids=answer.ids,
        sentences=answer.sentences,
        scores=answer.scores,
        finish_reasons=answer.finish_reasons,
    )
