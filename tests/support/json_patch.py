"""JSON patches (RFC 6902): the operations that change one place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def apply(document: Any, operation: Mapping[str, Any]) -> None:
    """Change a document by one operation.

    Raises:
        ValueError: its path leads nowhere, what it tests is not so, or it is another one than are known here.
    """
    op, path = operation["op"], operation["path"]
    *parents, last = [each.replace("~1", "/").replace("~0", "~") for each in path.split("/")[1:]]
    place = document
    try:
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place[parent]
        index = int(last) if isinstance(place, list) and last != "-" else last
        if op == "add" and isinstance(place, list):
            place.insert(len(place) if index == "-" else index, copy.deepcopy(operation["value"]))
            return
        if op != "add":
            there = place[index]  # must be there
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"there is no {path}") from error
    if op in ("add", "replace"):
        place[index] = copy.deepcopy(operation["value"])
    elif op == "remove":
        del place[index]
    elif op != "test":
        raise ValueError(f"op {op}: not known here")
    elif there != operation["value"]:
        raise ValueError(f"{path} is {there!r}")
