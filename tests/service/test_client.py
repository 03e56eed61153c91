"""What ``malgil generate`` makes of servers that are none of ours; with ours, see ``test_cli.py``."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from service.client import over_http
from service.errors import BackendFailed, BackendUnavailable, InvalidRequest


@contextmanager
def _server(status, body, delay_s=0.0):
    """A server that always answers so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            if not released.wait(delay_s) and delay_s:
                return
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            """Quietly."""

    released = threading.Event()
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (422, b'{"error": "no such field", "error_type": "validation"}', InvalidRequest, "^no such field$"),
        (429, b'{"error": "come again", "error_type": "overloaded"}', BackendFailed, "^come again$"),
        (500, b"<html>", BackendFailed, "answered 500 .*not as Malgil does"),
        (404, b'["error"]', BackendFailed, "answered 404 .*not as Malgil does"),
        (200, b"<html>", BackendFailed, "not as Malgil does"),
        (200, b"\xff\xfe", BackendFailed, "not as Malgil does"),
    ],
)
def test_any_answer_becomes_one_error(status, body, error, message):
    with _server(status, body) as url, pytest.raises(error, match=message):
        over_http(url, 10.0)({"inputs": "a"})


def test_no_answer_in_time_is_unavailable():
    with _server(200, b"{}", delay_s=5) as url, pytest.raises(BackendUnavailable, match="timed out"):
        over_http(url, 0.2)({"inputs": "a"})


def test_an_address_of_another_kind_is_refused_before_it_is_called():
    with pytest.raises(InvalidRequest, match="begins with http"):
        over_http("file:///etc/passwd", 1.0)
