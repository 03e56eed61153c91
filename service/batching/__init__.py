"""What runs together, and when.

The unit is a row: one text with its options (``rows``). ``costs`` predicts what it takes, from what the model's profile
says (``profiles``) and what calls took (``regression``). ``scheduler`` is the pure part, without a clock or a loop of
its own: who is admitted of those that come (``jobs``), and which of those that wait (``waiting``) run next. ``batcher``
is the thin asyncio shell around it.
"""

from service.batching.batcher import Batcher
from service.batching.rows import AdmittedRow, Row, RowResult, ScoreResult, ScoringRow, TimedResult

__all__ = ["AdmittedRow", "Batcher", "Row", "RowResult", "ScoreResult", "ScoringRow", "TimedResult"]
