from __future__ import annotations

from pathlib import Path

from benchmarks.op_times import op_times
from model_export.artifact.calls import Row, generate_ids_inputs


def test_operations_of_a_call_with_their_counts(artifact_root: Path) -> None:
    calls = [Row("", (40, 50, 3), {"min_new_tokens": tokens, "max_new_tokens": tokens}) for tokens in (8, 16)]
    artifact = artifact_root / "tiny-transformer" / "1"
    (short, traced, untraced), (long, *_) = (op_times(artifact, generate_ids_inputs([call]), runs=2) for call in calls)

    seconds = [time.seconds for time in short]
    assert seconds == sorted(seconds, reverse=True)
    assert 0 < sum(seconds) < traced
    assert untraced > 0
    fewer, more = ({time.op: time.count for time in times}["AddV2"] for times in (short, long))
    assert fewer < more < 2 * fewer  # twice the steps, one encoder
