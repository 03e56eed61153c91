"""The pages for users, as far as tests take something out of them."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def read_blocks(page: str, language: str) -> list[str]:
    """The fenced code blocks of one language in a page such as ``docs/operations.md``, as they stand there."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def removal_command() -> str:
    """What docs/operations.md has one type to remove version 3 of ``en-fr`` with compose."""
    (command,) = [block for block in read_blocks("docs/operations.md", "sh") if "/.removed-" in block]
    return command
