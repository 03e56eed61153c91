from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from service import errors
from service.errors import ANSWERED, ERROR_TABLE, INTERNAL_ERROR_TYPE, ServiceError, error_row, outcome

# Names of grpc.StatusCode; the gateway's core does not import grpc.
GRPC_CODES = {
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
}


def subclasses(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_the_table_has_every_error_and_nothing_else() -> None:
    assert set(ERROR_TABLE) == set(subclasses(ServiceError))


def test_the_tree_drawn_at_the_top_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = [line.split("── ")[1].split()[0] for line in errors.__doc__.splitlines() if "── " in line]
    assert sorted(drawn) == sorted(kind.__name__ for kind in ERROR_TABLE)


@pytest.mark.parametrize("kind", ERROR_TABLE, ids=lambda kind: kind.__name__)
def test_each_row_can_be_sent(kind: type[ServiceError]) -> None:
    row = ERROR_TABLE[kind]
    assert 400 <= row.http_status < 600
    assert row.error_type.replace("_", "").isalpha()
    assert row.grpc_code in GRPC_CODES


def test_errors_of_one_type_share_their_codes() -> None:
    rows = set(ERROR_TABLE.values())
    assert len({row.error_type for row in rows}) == len(rows)


def test_an_error_finds_its_row_and_keeps_what_it_says() -> None:
    error = errors.Overloaded("full", retry_after_s=3)
    assert error_row(error) == (429, "overloaded", "RESOURCE_EXHAUSTED")
    assert (str(error), error.message, error.retry_after_s) == ("full", "full", 3)


@pytest.mark.parametrize("kind", ERROR_TABLE, ids=lambda kind: kind.__name__)
def test_a_copy_says_the_same_and_is_another_object(kind: type[ServiceError]) -> None:
    error = kind("why", retry_after_s=7)
    copy = error.copy()
    assert (type(copy), str(copy), copy.message, copy.retry_after_s) == (kind, "why", "why", 7)
    assert copy is not error


def test_every_call_has_an_outcome_of_few() -> None:
    assert outcome(None) == ANSWERED
    assert outcome(asyncio.CancelledError()) == "client_closed"
    assert outcome(ZeroDivisionError("a bug")) == INTERNAL_ERROR_TYPE
    types = {outcome(kind("why", retry_after_s=1)) for kind in ERROR_TABLE}
    assert types == {row.error_type for row in ERROR_TABLE.values()}
    assert not types & {ANSWERED, INTERNAL_ERROR_TYPE}
