"""How answers are written: texts alone, tab-separated values, or JSON lines.

In tab-separated values a tab, a line feed, a carriage return and a backslash of a text are written as ``\\t``,
``\\n``, ``\\r`` and ``\\\\``, so that columns and lines are what they seem. Any other backslash that is read stands for
itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

_ESCAPES: Final = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_ESCAPED: Final = str.maketrans(_ESCAPES)
_UNESCAPED: Final = {escape: character for character, escape in _ESCAPES.items()}
_ESCAPE: Final = re.compile(r"\\[\\tnr]")
_LINE_ENDS: Final = str.maketrans("\r\n", "  ")


def tsv(*fields: object) -> str:
    """One line of tab-separated values."""
    return "\t".join(str(field).translate(_ESCAPED) for field in fields)


def from_tsv(line: str) -> list[str]:
    """The fields of a line."""
    return [_ESCAPE.sub(lambda found: _UNESCAPED[found[0]], field) for field in line.split("\t")]


def plain(text: str) -> str:
    """One line of text: a line end within it becomes a space."""
    return text.translate(_LINE_ENDS)


def json_line(fields: Mapping[str, Any]) -> str:
    """One line of JSON, readable in every script."""
    return json.dumps(fields, ensure_ascii=False)
