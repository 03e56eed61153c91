"""A model under judgement, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model_export.config import UserError
from model_export.contract import Limits

Options = Mapping[str, bool | int | float]
"""Decoding options that differ from neutral, by their names in ``contract.OPTIONS``."""


class EvaluationError(UserError):
    """A model, data or options with which there is nothing to judge."""


@dataclass(frozen=True, slots=True)
class Written:
    """The model's best answer to one text, and of how many new tokens it is (EOS included)."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Scored:
    """What the model says of one target, token by token, EOS included."""

    log_probs: NDArray[np.floating[Any]]  # [T], natural logarithms
    ranks: NDArray[np.integer[Any]]  # [T]: how many tokens the model finds likelier
    source_tokens: int  # that it read, framing included


class Subject(Protocol):
    """Every text that it is asked to answer or to score is within ``limits``."""

    @property
    def title(self) -> str:
        """What to call it."""
        ...

    @property
    def limits(self) -> Limits:
        """Of one row: source tokens count the framing, target tokens count EOS."""
        ...

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, without framing and EOS."""
        ...

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text that the tokens spell."""
        ...

    def generate(self, texts: Sequence[str], options: Options) -> list[Written]:
        """One call: the best answer to each text; the seed is that of the first, and greater by 1 for each next one.

        Raises:
            UserError: it refuses the options, or cannot answer.
        """
        ...

    def score(self, texts: Sequence[str], targets: Sequence[str]) -> list[Scored]:
        """One call: each target as the answer to the text at its place.

        Raises:
            UserError: it cannot score.
        """
        ...
