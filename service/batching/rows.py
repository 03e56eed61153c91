"""A row on its way through a backend: admitted, padded into a batch, cut out of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_export.contract import OPTIONS
from service.backend import Arrays, pad_ids
from service.errors import BackendFailed
from service.generation import GenerationOptions

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
    text: str | None = None  # given where the graph is to tokenize, to what source_ids are

    @property
    def signature(self) -> str:
        """What runs it."""
        return "generate_ids" if self.text is None else "generate"

    @property
    def group(self) -> tuple[str, int, str, int]:
        """Rows of one batch agree in it: a call is of one signature, and the graph wants one beam size in it."""
        return self.model, self.version, self.signature, self.options.beam_size

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
    source_tokens: int  # that the model read
    sentences: NDArray[np.object_] | None = None  # [K], bytes, where the graph has detokenized


_BY_HYPOTHESIS: Final = RowResult._fields[:6]


class TimedResult(NamedTuple):
    """The answer to one row, how long it waited for a slot, and how long its batch ran."""

    row: RowResult
    queue_s: float
    inference_s: float


def batch_inputs(rows: Sequence[AdmittedRow]) -> dict[str, NDArray[Any]]:
    """The inputs of the signature of rows of one group."""
    inputs: dict[str, NDArray[Any]] = {
        name: np.array(
            [row.max_new_tokens if name == "max_new_tokens" else getattr(row.options, name) for row in rows],
            dtype=option.dtype,
        )
        for name, option in OPTIONS.items()
    }
    texts = [row.text.encode() for row in rows if row.text is not None]
    if texts:
        inputs["texts"] = np.array(texts, dtype=object)
    else:
        inputs["source_ids"], inputs["source_lengths"] = pad_ids([row.source_ids for row in rows])
    inputs["prefix_ids"], inputs["prefix_lengths"] = pad_ids([row.prefix_ids for row in rows])
    return inputs


def split_outputs(outputs: Arrays, rows: Sequence[AdmittedRow]) -> list[RowResult]:
    """The outputs of that signature, which are as the contract has them, row by row (views, not copies).

    Raises:
        BackendFailed: there are fewer hypotheses than a row asks for.
    """
    hypotheses = outputs["ids"].shape[1]
    if hypotheses < max(row.options.num_hypotheses for row in rows):
        raise BackendFailed(f"the model's answer has {hypotheses} hypotheses, fewer than were asked for")
    columns = [outputs[name] for name in _BY_HYPOTHESIS]
    source_lengths, sentences = outputs["source_lengths"].tolist(), outputs.get("sentences")
    results = []
    for index, row in enumerate(rows):
        places = slice(row.options.num_hypotheses)
        of_row = (column[index, places] for column in columns)
        results.append(
            RowResult._make([*of_row, source_lengths[index], None if sentences is None else sentences[index, places]])
        )
    return results


def padding_ratio(rows: Sequence[AdmittedRow]) -> float:
    """Share of the batch's source positions that is padding."""
    lengths = [len(row.source_ids) for row in rows]
    return 1.0 - sum(lengths) / (len(lengths) * max(lengths))
