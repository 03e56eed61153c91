"""A row on its way through a backend: admitted, padded into a batch, cut out of the answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from model_export.contract import OPTIONS
from service.backend import Arrays, id_inputs
from service.errors import BackendFailed
from service.generation import GenerationOptions

Ids: TypeAlias = Sequence[int]


@dataclass(slots=True, eq=False)  # frozen, each would take four times as long to make
class AdmittedRow:
    """One text that passed admission: within every limit, ready to run."""

    model: str
    version: int
    source_ids: Ids  # [S], framed
    prefix_ids: Ids  # [P], P may be 0
    options: GenerationOptions
    max_new_tokens: int
    seed: int  # of the row's own noise
    text: str | None = None  # given where the graph is to tokenize, to what source_ids are
    mixes_beam_sizes: bool = False  # it may share a call with rows of other beam sizes

    @property
    def signature(self) -> str:
        """What runs it."""
        return "generate_ids" if self.text is None else "generate"

    @property
    def group(self) -> Hashable:
        """Calls whose rows agree in it are alike. Rows of one batch agree in it, or else in their ``kin``."""
        return self.model, self.version, self.signature, self.options.beam_size

    @property
    def kin(self) -> Hashable:
        """Rows that agree in it may share a batch although they are of unlike groups; None: with none such."""
        return (self.model, self.version, self.signature) if self.mixes_beam_sizes else None

    @property
    def beams(self) -> int:
        """Of each of its sequences."""
        return self.options.beam_size

    @property
    def width(self) -> int:
        """Sequences that are decoded side by side: beams or samples."""
        return self.options.num_hypotheses if self.options.do_sample else self.options.beam_size

    @property
    def reads(self) -> int:
        """Positions that are read in parallel before the first step."""
        return len(self.source_ids) + len(self.prefix_ids)

    def steps(self, target_tokens: float) -> float:
        """Steps until a target of so many tokens, its prefix included, is there: at least 1, and within its bounds."""
        wanted = max(target_tokens - len(self.prefix_ids), self.options.min_new_tokens, 1)
        return min(wanted, self.max_new_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class ScoringRow:
    """One text with the target whose probability is asked for."""

    model: str
    version: int
    source_ids: Ids  # [S], framed
    target_ids: Ids  # [T], end of sentence included
    align: bool = False  # asks for the attention too, which only the graph's own tokens have
    texts: tuple[str, str] | None = None  # text and target, where the graph is to tokenize

    @property
    def signature(self) -> str:
        """What runs it."""
        if self.texts is None:
            return "score_ids"
        return "align" if self.align else "score"

    @property
    def group(self) -> Hashable:
        """As of ``AdmittedRow``."""
        return self.model, self.version, self.signature

    @property
    def kin(self) -> Hashable:
        """As of ``AdmittedRow``."""
        return None

    @property
    def beams(self) -> int:
        """As of ``AdmittedRow``."""
        return 1

    @property
    def width(self) -> int:
        """As of ``AdmittedRow``."""
        return 1

    @property
    def reads(self) -> int:
        """As of ``AdmittedRow``."""
        return len(self.source_ids) + len(self.target_ids)

    def steps(self, target_tokens: float) -> float:
        """As of ``AdmittedRow``: one, as the target is read and not searched for."""
        return 1.0


Row: TypeAlias = AdmittedRow | ScoringRow


class ScoreResult(NamedTuple):
    """The answer to one ``ScoringRow``."""

    token_log_probs: Sequence[float]  # [T]
    token_ranks: NDArray[np.int32]  # [T]
    source_tokens: int  # that the model read
    attention: NDArray[np.float32] | None = None  # [T, S], where it was asked for


class RowResult(NamedTuple):
    """The answer to one row, best hypothesis first; K is its ``num_hypotheses``."""

    ids: Sequence[Ids]  # [K, T], new tokens
    lengths: Sequence[int]  # [K]
    finish_reasons: Sequence[int]  # [K]
    scores: Sequence[float]  # [K]
    normalized_scores: Sequence[float]  # [K]
    token_log_probs: NDArray[np.float32]  # [K, T]
    source_tokens: int  # that the model read
    sentences: Sequence[bytes] | None = None  # [K], where the graph has detokenized


_LISTED: Final = ("source_lengths", "ids", "lengths", "finish_reasons", "scores", "normalized_scores")
_OF_THE_ROW: Final = frozenset({"max_new_tokens", "seed"})
"""Options whose value for a row is not its request's."""


def _names_by_type() -> Iterator[tuple[str, tuple[str, ...], Callable[[GenerationOptions], Any]]]:
    """The other options of each data type, and what gets them all."""
    names = [name for name in OPTIONS if name not in _OF_THE_ROW]
    for dtype in dict.fromkeys(OPTIONS[name].dtype for name in names):
        of_type = tuple(name for name in names if OPTIONS[name].dtype == dtype)
        yield dtype, of_type, attrgetter(*of_type)


_OPTIONS_BY_TYPE: Final = tuple(_names_by_type())


class TimedResult(NamedTuple):
    """The answer to one row, how long it waited for a slot, and how long its batch ran."""

    row: Any  # RowResult of an AdmittedRow, ScoreResult of a ScoringRow
    queue_s: float
    inference_s: float


def batch_inputs(rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
    """The inputs of the signature of rows of one batch."""
    generating = [row for row in rows if isinstance(row, AdmittedRow)]
    if generating:
        return _generation_inputs(generating)
    return _scoring_inputs([row for row in rows if isinstance(row, ScoringRow)])


def split_outputs(outputs: Arrays, rows: Sequence[Row]) -> list[RowResult | ScoreResult]:
    """The outputs of that signature, which are as the contract has them, row by row: what every answer tells as numbers
    of Python, the rest as views.

    Raises:
        BackendFailed: there are fewer hypotheses than a row asks for.
    """
    generating = [row for row in rows if isinstance(row, AdmittedRow)]
    if generating:
        return list(_split_hypotheses(outputs, generating))
    return list(_split_scores(outputs, len(rows)))


def _generation_inputs(rows: Sequence[AdmittedRow]) -> dict[str, NDArray[Any]]:
    inputs: dict[str, NDArray[Any]] = {
        name: np.array([getattr(row, name) for row in rows], dtype=OPTIONS[name].dtype) for name in _OF_THE_ROW
    }
    for dtype, names, values in _OPTIONS_BY_TYPE:
        table = np.array([values(row.options) for row in rows], dtype, order="F")  # [rows, names]
        inputs |= zip(names, table.T, strict=True)
    texts = [row.text.encode() for row in rows if row.text is not None]
    if texts:
        inputs["texts"] = np.array(texts, dtype=object)
    else:
        inputs |= id_inputs("source", [row.source_ids for row in rows])
    return inputs | id_inputs("prefix", [row.prefix_ids for row in rows])


def _scoring_inputs(rows: Sequence[ScoringRow]) -> dict[str, NDArray[Any]]:
    texts = [row.texts for row in rows if row.texts is not None]
    if texts:
        columns = zip(("texts", "targets"), zip(*texts, strict=True), strict=True)
        return {name: np.array([text.encode() for text in column], dtype=object) for name, column in columns}
    targets = id_inputs("target", [row.target_ids for row in rows])
    return id_inputs("source", [row.source_ids for row in rows]) | targets


def _split_hypotheses(outputs: Arrays, rows: Sequence[AdmittedRow]) -> Iterator[RowResult]:
    hypotheses = outputs["ids"].shape[1]
    if hypotheses < max(row.options.num_hypotheses for row in rows):
        raise BackendFailed(f"the model's answer has {hypotheses} hypotheses, fewer than were asked for")
    sentences = outputs["sentences"].tolist() if "sentences" in outputs else itertools.repeat(None, len(rows))
    columns = (outputs[name].tolist() for name in _LISTED)
    of_rows = zip(rows, *columns, outputs["token_log_probs"], sentences, strict=True)
    for row, source_tokens, ids, lengths, reasons, scores, normalized_scores, log_probs, texts in of_rows:
        count = row.options.num_hypotheses
        yield RowResult(
            ids[:count],
            lengths[:count],
            reasons[:count],
            scores[:count],
            normalized_scores[:count],
            log_probs[:count],
            source_tokens,
            texts and texts[:count],
        )


def _split_scores(outputs: Arrays, rows: int) -> Iterator[ScoreResult]:
    lengths, source_lengths = outputs["lengths"].tolist(), outputs["source_lengths"].tolist()
    log_probs, attention = outputs["token_log_probs"].tolist(), outputs.get("attention")
    for row in range(rows):
        length, source_length = lengths[row], source_lengths[row]
        yield ScoreResult(
            log_probs[row][:length],
            outputs["token_ranks"][row, :length],
            source_length,
            None if attention is None else attention[row, :length, :source_length],
        )


def padding_ratio(rows: Sequence[Row]) -> float:
    """Share of the batch's source positions that is padding."""
    lengths = [len(row.source_ids) for row in rows]
    return 1.0 - sum(lengths) / (len(lengths) * max(lengths))
