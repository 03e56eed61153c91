"""Admitted rows made by hand."""

from __future__ import annotations

import numpy as np

from service.batching import AdmittedRow
from service.generation import GenerationOptions


def make_row(
    source_tokens: int = 4,
    *,
    first_id: int = 260,
    max_new_tokens: int = 128,
    model: str = "echo",
    text: str | None = None,
    **options: object,
) -> AdmittedRow:
    """A row of ``source_tokens`` source tokens, end of sentence included; ``options`` as in ``GenerationOptions``."""
    source_ids = np.array([*range(first_id, first_id + source_tokens - 1), 3], dtype=np.int32)
    prefix_ids = np.zeros(0, dtype=np.int32)
    return AdmittedRow(model, 1, source_ids, prefix_ids, GenerationOptions(**options), max_new_tokens, 0, text)
