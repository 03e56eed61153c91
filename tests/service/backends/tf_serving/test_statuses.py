import grpc
import pytest

from service.backends.tf_serving.statuses import STATUS_TABLE, service_error, without_addresses
from service.errors import BackendFailed, BackendUnavailable, DeadlineExceeded, ModelNotFound, Overloaded

Code = grpc.StatusCode


def test_every_status_but_ok_has_a_row():
    assert set(STATUS_TABLE) == set(Code) - {Code.OK}
    for code in STATUS_TABLE:
        assert type(service_error(code, None)) is STATUS_TABLE[code]


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (Code.NOT_FOUND, "Servable not found for request: Latest(nope)", ModelNotFound),
        (Code.NOT_FOUND, "Servable not found for request: Specific(ko, 99)", ModelNotFound),
        (Code.NOT_FOUND, "Could not find any versions of model nope", ModelNotFound),
        (Code.NOT_FOUND, "Resource localhost/table does not exist", BackendFailed),
        (Code.INVALID_ARGUMENT, "Unrecognized servable version label: nope", BackendFailed),
        (Code.FAILED_PRECONDITION, 'Serving signature key "nope" not found.', BackendFailed),
        (Code.INVALID_ARGUMENT, "Expects arg[0] to be string but float is provided", BackendFailed),
        (Code.INVALID_ARGUMENT, "Task size 5 is larger than maximum input batch size 4", BackendFailed),
        (Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions", BackendFailed),
        (Code.INTERNAL, "", BackendFailed),
        (Code.INTERNAL, "XLA compilation disabled", BackendFailed),
        (Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted", Overloaded),
        (Code.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (9 vs. 4)", BackendFailed),
        (Code.RESOURCE_EXHAUSTED, "SERVER: Sent message larger than max (9 vs. 4)", BackendFailed),
        (Code.UNAVAILABLE, "Stream removed (Socket closed)", BackendUnavailable),
        (
            Code.UNAVAILABLE,
            "The batch scheduling queue to which this task was submitted is full; currently 4",
            Overloaded,
        ),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlineExceeded),
    ],
)
def test_what_tf_serving_says_is_one_of_our_errors(code, details, expected):
    assert type(service_error(code, details)) is expected


def test_another_try_makes_sense_where_waiting_helps():
    assert service_error(Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted").retry_after_s == 1
    assert service_error(Code.UNAVAILABLE, "Socket closed").retry_after_s == 1
    assert service_error(Code.INTERNAL, "").retry_after_s is None


def test_a_failure_says_its_first_line_and_no_more():
    assert service_error(Code.INTERNAL, "\nassertion failed: [x]\n\t [[node]]").message == (
        "the model failed: assertion failed: [x]"
    )
    assert service_error(Code.INTERNAL, "").message == "the model failed: INTERNAL"
    assert len(service_error(Code.INTERNAL, "x" * 1000).message) < 330


def test_no_address_is_told():
    details = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.7:8500: Connection refused"
    assert "10.0.0.7" not in service_error(Code.UNAVAILABLE, details).message


def test_the_log_says_why_without_an_address():
    details = "failed to connect; last error: UNKNOWN: ipv4:10.0.0.7:8500: Ssl handshake failed: CERTIFICATE_VERIFY"
    cause = grpc.aio.AioRpcError(Code.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
    error = BackendUnavailable("it cannot be reached")
    assert without_addresses(error) == "it cannot be reached"
    error.__cause__ = cause
    assert (
        without_addresses(error)
        == "failed to connect; last error: UNKNOWN: ... Ssl handshake failed: CERTIFICATE_VERIFY"
    )
