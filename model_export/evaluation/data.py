"""What models are judged on: every different source once, with all its targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model_export.text.pairs import TextPairs


@dataclass(frozen=True)
class EvaluationData:
    """``targets[i]`` are all the right answers to ``sources[i]``: references, and texts to score."""

    sources: list[str]
    targets: list[list[str]]

    @classmethod
    def from_pairs(cls, pairs: TextPairs) -> EvaluationData:
        """Lines of one source are one source with several targets, in the order of the lines."""
        targets: dict[str, list[str]] = {}
        for source, target in zip(pairs.sources, pairs.targets, strict=True):
            targets.setdefault(source, []).append(target)
        return cls(list(targets), list(targets.values()))

    def limited(self, count: int, seed: int | None = None) -> EvaluationData:
        """The first ``count`` sources; with a seed as many drawn by it, in their order. All where there are fewer."""
        if count >= len(self.sources):
            return self
        if seed is None:
            return self.of(range(count))
        drawn = np.random.default_rng(seed).choice(len(self.sources), count, replace=False)
        return self.of(sorted(drawn.tolist()))

    def of(self, indices: range | list[int]) -> EvaluationData:
        """Those sources alone."""
        return EvaluationData([self.sources[i] for i in indices], [self.targets[i] for i in indices])

    @property
    def pair_count(self) -> int:
        """Targets of all sources."""
        return sum(map(len, self.targets))
