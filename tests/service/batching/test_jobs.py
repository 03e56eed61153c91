from __future__ import annotations

from service.batching.jobs import Job
from service.batching.rows import TimedResult
from service.errors import BackendFailed, Draining
from tests.support.rows import make_row


def result() -> TimedResult:
    return TimedResult(None, 0.0, 0.0)


def test_a_job_is_answered_once() -> None:
    closed: list[Job] = []
    job, answer = Job([make_row()], 1.0, closed.append), result()
    job.deliver(0, answer)
    job.fail(BackendFailed("too late"))
    job.abandon()
    job.deliver(0, result())
    assert closed == [job]
    assert job.error is None
    assert job.results == {0: answer}


def test_a_job_is_answered_by_all_its_results_or_by_its_first_error() -> None:
    closed: list[Job] = []
    job, error = Job([make_row(), make_row()], 1.0, closed.append), Draining("first")
    job.deliver(1, result())
    assert not job.closed
    job.fail(error)
    job.fail(BackendFailed("second"))
    assert closed == [job]
    assert job.error is error
