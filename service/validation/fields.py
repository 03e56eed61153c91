"""Fields of JSON-decoded bodies: objects, texts, integers, and how a message names a value that is none of them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Final, TypeGuard

from service.errors import InvalidRequest

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_KINDS: Final = {
    bool: "a boolean",
    int: "an integer",
    float: "a number with a decimal point",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def parse_object(
    value: Any, what: str, known: Collection[str], elsewhere: Mapping[str, Collection[str]] | None = None
) -> Mapping[str, Any]:
    """``value`` as an object that has none but ``known`` fields; ``elsewhere`` names those of its inner objects."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} must be an object with fields of {', '.join(known)}, not {shown(value)}")
    for name in value:
        if name not in known:
            raise InvalidRequest(f"{what} has no field {name[:64]!r}: {_advice(name[:64], known, elsewhere or {})}")
    return value


def _advice(name: str, known: Collection[str], elsewhere: Mapping[str, Collection[str]]) -> str:
    for place, names in elsewhere.items():
        if name in names:
            return f"it belongs into '{place}', {{'{place}': {{'{name}': ...}}}}"
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}"


def parse_text(name: str, value: Any, longest: int, *, may_be_empty: bool = False) -> str:
    """A text that can be tokenized and sent."""
    if not isinstance(value, str):
        raise InvalidRequest(f"'{name}' must be a string, not {_KINDS.get(type(value), 'that')}")
    if not may_be_empty and (not value or value.isspace()):
        raise InvalidRequest(f"'{name}' is empty: send a text with visible characters")
    if len(value) > longest:
        raise InvalidRequest(f"'{name}' has {len(value)} characters: send at most {longest}, or split it")
    if "\0" in value:
        raise InvalidRequest(f"'{name}' has a NUL character at {value.index(chr(0))}: remove it")
    refuse_lone_surrogate(name, value)
    return value


def refuse_lone_surrogate(name: str, value: str) -> None:
    """JSON can hold one, UTF-8 cannot."""
    if not value.isascii() and (found := _LONE_SURROGATE.search(value)):
        raise InvalidRequest(
            f"'{name}' has half of a surrogate pair at {found.start()}, which is no character: send both halves or none"
        )


def is_integer(value: Any) -> TypeGuard[int]:
    """Exactly an integer: true is no 1."""
    return type(value) is int


def shown(value: Any) -> str:
    """A wrong value as a message names it: numbers as they are while short, of all else the kind."""
    if isinstance(value, (bool, type(None))):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**15):
        return f"{value}" if math.isfinite(value) else "a number beyond all bounds"
    return "an integer of so many digits" if isinstance(value, int) else _KINDS.get(type(value), "that")
