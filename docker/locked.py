"""Prints the entries of a lock file for the packages that other files name, one a line.

``python locked.py requirements.lock gateway.txt``: what ``pip install --no-deps --require-hashes`` is given, so that
images hold exactly what is locked. ``tests/docker`` compares the files with what each image needs.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def entries(lock: str) -> dict[str, str]:
    """The lock file by package; one may have several entries, with markers that exclude each other."""
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", lock):
        if match := re.match(r"([\w.-]+)==", entry):
            found[match[1]] = found.get(match[1], "") + entry.rstrip() + "\n"
    return found


def main(lock: Path, *lists: Path) -> None:
    """Print the entries, or say which packages are not locked."""
    names = [name for path in lists for name in path.read_text(encoding="utf-8").split()]
    locked = entries(lock.read_text(encoding="utf-8"))
    if missing := [name for name in names if name not in locked]:
        sys.exit(f"{lock} does not lock {', '.join(missing)}")
    sys.stdout.write("".join(locked[name] for name in names))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
