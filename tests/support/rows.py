"""Admitted rows made by hand, and how many a batch has."""

from __future__ import annotations

from collections.abc import Sequence

from service.batching import AdmittedRow, ScoringRow
from service.batching.rows import Ids
from service.certificate import MostRows
from service.generation import GenerationOptions


def make_row(
    source_tokens: int = 4,
    *,
    first_id: int = 260,
    max_new_tokens: int = 128,
    model: str = "echo",
    text: str | None = None,
    mixes_beam_sizes: bool = False,
    **options: object,
) -> AdmittedRow:
    """A row of ``source_tokens`` source tokens, end of sentence included; ``options`` as in ``GenerationOptions``."""
    seed = options.get("seed") or 0
    assert isinstance(seed, int)
    typed = GenerationOptions(**options)
    return AdmittedRow(
        model, 1, _source(source_tokens, first_id), [], typed, max_new_tokens, seed, text, mixes_beam_sizes
    )


def make_scoring_row(
    source_tokens: int = 4,
    *,
    first_id: int = 260,
    target_ids: Sequence[int] = (260, 261, 3),
    model: str = "echo",
    align: bool = False,
    texts: tuple[str, str] | None = None,
) -> ScoringRow:
    """A row that scores ``target_ids`` given ``source_tokens`` source tokens, end of sentence included."""
    return ScoringRow(model, 1, _source(source_tokens, first_id), target_ids, align, texts)


def at_most(rows: int) -> MostRows:
    """What says that batches have so many, whatever the model."""
    return lambda manifest, beam_size: rows


def _source(tokens: int, first_id: int) -> Ids:
    return [*range(first_id, first_id + tokens - 1), 3]
