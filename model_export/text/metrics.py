"""BLEU (Papineni et al. 2002) and chrF (Popović 2015) by sacrebleu, against all the right answers to each source."""

from __future__ import annotations

from collections.abc import Sequence

import sacrebleu

ReferenceStreams = list[list[str | None]]
"""As sacrebleu takes references: the n-th of every source, None where a source has fewer."""


def reference_streams(references: Sequence[Sequence[str]]) -> ReferenceStreams:
    """``references[i]`` are all the right answers to the i-th source."""
    most = max(map(len, references))
    return [[group[n] if n < len(group) else None for group in references] for n in range(most)]


def corpus_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU and chrF (sacrebleu's defaults); ``references[i]`` are all the right answers to the i-th source."""
    streams = reference_streams(references)
    return {
        "bleu": sacrebleu.corpus_bleu(list(hypotheses), streams).score,
        "chrf": sacrebleu.corpus_chrf(list(hypotheses), streams).score,
    }
