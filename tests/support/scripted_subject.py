"""A model under judgement that answers and scores by a script; its tokens are characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from model_export.contract import Limits
from model_export.evaluation.subject import Options, Scored, Written


class ScriptedSubject:
    """Adds EOS to sources and targets. Every token of a target has the probability and rank of its script."""

    def __init__(
        self,
        answers: Mapping[str, str],
        log_prob: float = -1.0,
        ranks: Mapping[str, int] | None = None,
        *,
        title: str = "scripted",
        max_source_tokens: int = 100,
        max_target_tokens: int = 100,
    ) -> None:
        """``ranks`` of characters; those that are not in it, and EOS, are the model's own choice."""
        self.title = title
        self.limits = Limits(max_source_tokens, max_target_tokens, max_beam_size=4, default_max_new_tokens=20)
        self.calls: list[tuple[str, list[str], Options]] = []
        self._answers = answers
        self._log_prob = log_prob
        self._ranks = ranks or {}

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(character) for character in text] for text in texts]

    def detokenize(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def generate(self, texts: Sequence[str], options: Options) -> list[Written]:
        assert all(len(text) < self.limits.max_source_tokens for text in texts)
        self.calls.append(("generate", list(texts), options))
        return [Written(self._answers[text], len(self._answers[text]) + 1) for text in texts]

    def score(self, texts: Sequence[str], targets: Sequence[str]) -> list[Scored]:
        assert all(len(text) < self.limits.max_source_tokens for text in texts)
        assert all(len(target) < self.limits.max_target_tokens for target in targets)
        self.calls.append(("score", list(targets), {}))
        return [
            Scored(
                np.full(len(target) + 1, self._log_prob),
                np.array([*(self._ranks.get(character, 0) for character in target), 0]),
                len(text) + 1,
            )
            for text, target in zip(texts, targets, strict=True)
        ]
