"""A row on its way through a backend: admitted, padded into a batch, cut out of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from model_export.contract import OPTIONS, SIGNATURES
from service.backend import Arrays, pad_ids
from service.errors import BackendFailed
from service.generation import GenerationOptions

SIGNATURE = "generate_ids"

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class AdmittedRow:
    """One text that passed admission: within every limit, ready to run."""

    model: str
    version: int
    source_ids: Ids  # [S], framed
    prefix_ids: Ids  # [P], P may be 0
    options: GenerationOptions
    max_new_tokens: int

    @property
    def group(self) -> tuple[str, int, int]:
        """Rows of one batch agree in it: the graph wants one beam size in a call."""
        return self.model, self.version, self.options.beam_size

    @property
    def cost(self) -> int:
        """Expected positions over all beams; the output is taken to be as long as the source where bounds allow it."""
        expected = max(self.options.min_new_tokens, min(self.max_new_tokens, len(self.source_ids)))
        return self.options.beam_size * (len(self.source_ids) + len(self.prefix_ids) + expected)


class RowResult(NamedTuple):
    """The answer to one row, best hypothesis first; K is its ``num_hypotheses``."""

    ids: Ids  # [K, T], new tokens
    lengths: Ids  # [K]
    finish_reasons: Ids  # [K]
    scores: NDArray[np.float32]  # [K]
    normalized_scores: NDArray[np.float32]  # [K]
    token_log_probs: NDArray[np.float32]  # [K, T]


class TimedResult(NamedTuple):
    """The answer to one row, how long it waited for a slot, and how long its batch ran."""

    row: RowResult
    queue_s: float
    inference_s: float


def batch_inputs(rows: Sequence[AdmittedRow]) -> dict[str, NDArray[Any]]:
    """The inputs of ``generate_ids`` for rows of one group."""
    inputs: dict[str, NDArray[Any]] = {
        name: np.array(
            [row.max_new_tokens if name == "max_new_tokens" else getattr(row.options, name) for row in rows],
            dtype=option.dtype,
        )
        for name, option in OPTIONS.items()
    }
    inputs["source_ids"], inputs["source_lengths"] = pad_ids([row.source_ids for row in rows])
    inputs["prefix_ids"], inputs["prefix_lengths"] = pad_ids([row.prefix_ids for row in rows])
    return inputs


def split_outputs(outputs: Arrays, rows: Sequence[AdmittedRow]) -> list[RowResult]:
    """The outputs of ``generate_ids``, row by row (views, not copies).

    Raises:
        BackendFailed: an output is missing, or the shapes do not agree with the contract, each other or the rows.
    """
    sizes = {"B": len(rows)}
    for name, spec in SIGNATURES[SIGNATURE].outputs.items():
        array = outputs.get(name)
        if array is None:
            raise BackendFailed(f"the model's answer lacks {name!r}")
        letters = cast("tuple[str, ...]", spec.shape)
        if array.ndim != len(letters) or any(
            sizes.setdefault(letter, size) != size for letter, size in zip(letters, array.shape, strict=True)
        ):
            raise BackendFailed(f"the model's answer has {name!r} of shape {array.shape}, which does not fit {letters}")
    if sizes["K"] < max(row.options.num_hypotheses for row in rows):
        raise BackendFailed(f"the model's answer has {sizes['K']} hypotheses, fewer than were asked for")
    columns = [outputs[name] for name in RowResult._fields]
    return [
        RowResult(*(column[index, : row.options.num_hypotheses] for column in columns))
        for index, row in enumerate(rows)
    ]


def padding_ratio(rows: Sequence[AdmittedRow]) -> float:
    """Share of the batch's source positions that is padding."""
    lengths = [len(row.source_ids) for row in rows]
    return 1.0 - sum(lengths) / (len(lengths) * max(lengths))
