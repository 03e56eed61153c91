"""Ends with 0 if the server in this container is ready for requests; the standard library alone, to cost little."""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_S = 2.0


def main() -> str | None:
    """What is wrong, if something is."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("MALGIL_PORT") or 8000), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        said = answer.read().decode()
    except OSError as error:
        return f"no answer: {error}"
    finally:
        connection.close()
    print(said)
    return None if answer.status == 200 else f"not ready: {answer.status}"


if __name__ == "__main__":
    sys.exit(main())
