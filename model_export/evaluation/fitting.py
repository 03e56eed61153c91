"""Which texts a model can take, found out before it is judged: what is too long is left out or cut, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_export.evaluation.data import EvaluationData
from model_export.evaluation.subject import EvaluationError, Subject
from model_export.text.progress import OnProgress, silent

Overlong = Literal["skip", "truncate"]
_TEXTS_TOLD = 1000
"""As many are tokenized before progress is told."""


class Pair(NamedTuple):
    """A target to score, and which source it belongs to."""

    source: int
    target: str


@dataclass(frozen=True)
class Questions:
    """What one model is asked: texts that it can take, in the order of the data."""

    sources: list[str]
    source_tokens: NDArray[np.int64]  # [N], framing included
    pairs: list[Pair]
    pair_tokens: NDArray[np.int64]  # [P]: of the target, EOS included
    target_ids: list[list[int]]  # of the pairs, EOS not included
    cut_sources: int
    cut_targets: int


@dataclass(frozen=True)
class Fitted:
    """The data without what was left out, and the questions to each of the models."""

    data: EvaluationData
    questions: list[Questions]
    skipped_sources: int
    unscored_pairs: int
    """Of sources that stay: their targets are references, but too long to be scored."""


class _Lengths(NamedTuple):
    """Tokens of all texts as one model counts them, and of how many they may be."""

    source_ids: list[list[int]]
    target_ids: list[list[int]]  # of the targets of all sources, one after the other
    most_source: int
    most_target: int


def fit(
    subjects: Sequence[Subject], data: EvaluationData, overlong: Overlong, on_progress: OnProgress = silent
) -> Fitted:
    """What is too long for any of the models is skipped for all, so that they are judged on the same.

    Raises:
        EvaluationError: nothing is left.
    """
    lengths = [_measure(subject, data, on_progress) for subject in subjects]
    source_of = np.repeat(np.arange(len(data.sources)), [len(group) for group in data.targets])
    fits, scorable = np.ones(len(data.sources), bool), np.ones(len(source_of), bool)
    if overlong == "skip":
        for each in lengths:
            fits &= [len(ids) <= each.most_source for ids in each.source_ids]
            scorable &= [len(ids) <= each.most_target for ids in each.target_ids]
    kept = np.flatnonzero(fits)
    pairs = np.flatnonzero(scorable & fits[source_of])
    if not kept.size:
        most = min(each.most_source for each in lengths)
        raise EvaluationError(f"every source is too long: the model takes {most} tokens; --overlong truncate cuts them")
    return Fitted(
        data=data.of(kept.tolist()),
        questions=[
            _questions(subject, data, each, kept, pairs, source_of)
            for subject, each in zip(subjects, lengths, strict=True)
        ],
        skipped_sources=len(data.sources) - len(kept),
        unscored_pairs=int(fits[source_of].sum()) - len(pairs),
    )


def _measure(subject: Subject, data: EvaluationData, on_progress: OnProgress) -> _Lengths:
    source_ids = _tokenized(subject, data.sources, on_progress)
    target_ids = _tokenized(subject, [target for group in data.targets for target in group], on_progress)
    shortest = min(range(len(source_ids)), key=lambda index: len(source_ids[index]))
    on_progress(f"first score by {subject.title}", 0, 0)
    framing = _framing(subject, data.sources[shortest], len(source_ids[shortest]))
    return _Lengths(
        source_ids, target_ids, subject.limits.max_source_tokens - framing, subject.limits.max_target_tokens - 1
    )


def _tokenized(subject: Subject, texts: Sequence[str], on_progress: OnProgress) -> list[list[int]]:
    ids: list[list[int]] = []
    for first in range(0, len(texts), _TEXTS_TOLD):
        on_progress(f"tokenizing for {subject.title}", first, len(texts))
        ids += subject.tokenize(texts[first : first + _TEXTS_TOLD])
    return ids


def _framing(subject: Subject, text: str, tokens: int) -> int:
    """How many tokens the model puts around a text, seen where it scores a text of ``tokens``.

    This also tells that a model cannot score before hours go into its answers.
    """
    if tokens >= subject.limits.max_source_tokens:
        return 1  # all are too long; the EOS that our models add
    return subject.score([text], [text.strip()[:1]])[0].source_tokens - tokens


def _questions(
    subject: Subject,
    data: EvaluationData,
    lengths: _Lengths,
    kept: NDArray[np.int64],
    pairs: NDArray[np.int64],
    source_of: NDArray[np.int64],
) -> Questions:
    targets = [target for group in data.targets for target in group]
    place = {int(index): number for number, index in enumerate(kept)}
    sources = [_within(subject, data.sources[i], lengths.source_ids[i], lengths.most_source) for i in kept]
    scored = [_within(subject, targets[i], lengths.target_ids[i], lengths.most_target) for i in pairs]
    framing = subject.limits.max_source_tokens - lengths.most_source
    return Questions(
        sources=[text for text, _ in sources],
        source_tokens=np.array([len(ids) + framing for _, ids in sources]),
        pairs=[Pair(place[int(source_of[i])], text) for i, (text, _) in zip(pairs, scored, strict=True)],
        pair_tokens=np.array([len(ids) + 1 for _, ids in scored], np.int64),
        target_ids=[ids for _, ids in scored],
        cut_sources=sum(len(lengths.source_ids[i]) > lengths.most_source for i in kept),
        cut_targets=sum(len(lengths.target_ids[i]) > lengths.most_target for i in pairs),
    )


def _within(subject: Subject, text: str, ids: list[int], most: int) -> tuple[str, list[int]]:
    """The text, or as much of its start as has at most so many tokens; and its tokens."""
    if len(ids) <= most:
        return text, ids
    for count in range(most, 0, -1):
        start = subject.detokenize(ids[:count]).rstrip("\ufffd")  # half a character
        (again,) = subject.tokenize([start])  # what is cut out of a text need not be split as it was in it
        if start and len(again) <= most:
            return start, again
    raise EvaluationError(f"{text[:40]!r} cannot be cut to {most} tokens")
