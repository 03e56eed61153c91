"""Work that would hold up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

INLINE_CHARACTERS: Final = 10_000
"""Longer work of the tokenizer is given to a thread, so that other requests go on; a thread costs some 0.1 ms."""

T = TypeVar("T")


async def off_loop_if_long(size: int, work: Callable[[], T]) -> T:
    """``work`` on texts of ``size`` characters (or tokens), in a thread where it would hold up other requests."""
    return await asyncio.to_thread(work) if size > INLINE_CHARACTERS else work()
