"""Both searches with penalties, masks and prefixes against the definition, written down plainly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model_export.decoding import TokenIds, beam_search, greedy_search
from tests.support.scripted_step import BOS, EOS, PAD, UNK, ScriptedStep, options, random_step, sequences, sources

TOKENS = TokenIds(start=BOS, eos=EOS, pad=PAD, suppressed=(PAD, BOS), unk=UNK)
ROWS = 6
ASKED: dict[str, list[float]] = {
    "max_new_tokens": [9, 4, 12, 10, 7, 12],
    "min_new_tokens": [0, 2, 5, 10, 0, 12],
    "length_penalty": [1.0, 0.0, 0.7, 1.5, 1.0, 1.0],
    "repetition_penalty": [1.0, 1.4, 3.0, 0.6, 1.0, 1.2],
    "no_repeat_ngram_size": [2, 0, 3, 2, 1, 1],
    "disable_unk": [True, False, True, False, True, False],
    "prefix_lengths": [0, 1, 3, 2, 0, 3],
}


class Row:
    """What one row asks for."""

    def __init__(self, step: ScriptedStep, source: int, prefix: tuple[int, ...], asked: dict[str, float]) -> None:
        self.step, self.source, self.prefix, self.asked = step, source, prefix, asked

    def processed(self, sequence: tuple[int, ...]) -> list[float]:
        """Log-probabilities that rank the tokens after ``sequence``."""
        logits = self.step.logits(self.source, self.prefix + sequence)
        for token in {*self.prefix, *sequence}:
            penalty = self.asked["repetition_penalty"]
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        return list(logits - math.log(np.exp(logits).sum()))

    def allowed(self, sequence: tuple[int, ...]) -> list[int]:
        size = int(self.asked["no_repeat_ngram_size"])
        seen = self.prefix + sequence
        ngrams = {seen[start : start + size] for start in range(len(seen) - size + 1)} if size else set()
        forbidden = {*TOKENS.suppressed, EOS} | ({UNK} if self.asked["disable_unk"] else set())
        letters = [token for token in range(self.step.table.shape[1]) if token not in forbidden]
        found = [token for token in letters if (*seen[len(seen) - size + 1 :], token) not in ngrams]
        may_end = len(sequence) >= self.asked["min_new_tokens"] or not found
        return [*found, EOS] if may_end else found

    def rank(self, sequence: tuple[int, ...]) -> float:
        return sum(self.processed(sequence[:place])[token] for place, token in enumerate(sequence))

    def best(self, beam_size: int) -> list[tuple[int, ...]]:
        """The definition at the top of ``beam.py``."""
        beams: list[tuple[int, ...]] = [()]
        finished: list[tuple[int, ...]] = []
        for time in range(int(self.asked["max_new_tokens"])):
            candidates = [(*beam, token) for beam in beams for token in self.allowed(beam)]
            candidates.sort(key=self.rank, reverse=True)
            is_last = time + 1 == self.asked["max_new_tokens"]
            finished += [one for one in candidates[:beam_size] if one[-1] == EOS or is_last]
            beams = [one for one in candidates if one[-1] != EOS][:beam_size]
            if is_last or len(finished) >= beam_size or not beams:
                break
        return sorted(finished, key=self.normalized, reverse=True)[:beam_size]

    def normalized(self, sequence: tuple[int, ...]) -> float:
        return self.rank(sequence) / len(sequence) ** self.asked["length_penalty"]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("beam_size", [1, 2, 4])
def test_equals_the_plain_definition(seed: int, beam_size: int) -> None:
    step = random_step(seed, vocabulary_size=8)
    prefix_ids = np.random.default_rng(seed).integers(4, 8, [ROWS, 3])
    asked = options(ROWS, num_hypotheses=beam_size, prefix_ids=prefix_ids, **ASKED)
    found = [beam_search(step, *sources(ROWS), beam_size, asked, TOKENS)]
    if beam_size == 1:
        found.append(greedy_search(step, *sources(ROWS), asked, TOKENS))
    for row in range(ROWS):
        own = {name: values[row] for name, values in ASKED.items()}
        prefix = tuple(prefix_ids[row, : int(own["prefix_lengths"])].tolist())
        plain = Row(step, 10 + row, prefix, own)
        expected = plain.best(beam_size)
        for search in found:
            assert sequences(search, row) == expected
            for place, one in enumerate(expected):
                log_probs = step.log_probs(10 + row, prefix + one)[len(prefix) :]
                np.testing.assert_allclose(search.token_log_probs[row, place, : len(one)], log_probs, atol=1e-4)
                np.testing.assert_allclose(search.scores[row, place], sum(log_probs), atol=1e-4)
                np.testing.assert_allclose(search.normalized_scores[row, place], plain.normalized(one), atol=1e-4)
