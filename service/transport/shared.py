"""What calls have in common over REST and gRPC: ids, times, a line in the log, a sentence for faults of ours."""

from __future__ import annotations

import logging
import random
import re
from typing import Any, Final

from service.telemetry import log_event

FAULT: Final = "the server failed on this request: its log has the details"
"""All that a client is told of an error that is none of the table."""

_IDS: Final = random.Random()  # no secrets: the system's randomness would cost 2 % of a call
_SAFE_ID: Final = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")


def safe_request_id(given: str | None) -> str:
    """The client's own id where it may go into headers and logs as it is, else a new one."""
    return given if given is not None and _SAFE_ID.fullmatch(given) else _IDS.randbytes(16).hex()


def milliseconds(seconds: float) -> str:
    """A header's value."""
    return f"{seconds * 1000:.3f}"


def log_call(request_id: str, total_s: float, *, quiet: bool, **fields: Any) -> None:
    """The line of one call; ``quiet``: machines ask it every few seconds, so it is logged at debug."""
    level = logging.DEBUG if quiet else logging.INFO
    log_event("call", level, request_id=request_id, **fields, total_ms=round(total_s * 1000, 3))
