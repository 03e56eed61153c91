"""What runs together, and when.

The unit is a row: one text with its options (``rows``). ``queue`` is the pure part: a bounded queue and the choice of a
batch, without a clock or a loop of its own. ``batcher`` is the thin asyncio shell around it.
"""

from service.batching.batcher import Batcher
from service.batching.rows import AdmittedRow, Row, RowResult, ScoreResult, ScoringRow, TimedResult

__all__ = ["AdmittedRow", "Batcher", "Row", "RowResult", "ScoreResult", "ScoringRow", "TimedResult"]
