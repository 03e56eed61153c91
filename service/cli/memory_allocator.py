"""A faster memory allocator for the process that runs models: docs/decisions/0028-memory-allocator.md.

A decode step allocates hundreds of tensors: with glibc's allocator that is up to a fifth of its time. A process gets
another one only when it starts, so this one starts anew: same process, same command line.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, files
from typing import Final

_LIBRARIES: Final = ("libtbbmalloc.so.2", "libtbbmalloc_proxy.so.2")
"""oneTBB's allocator, and what puts it in the place of ``malloc``, in the order in which they must be loaded."""
_IS_ANEW: Final = "_MALGIL_STARTED_ANEW"
"""In the environment from one start to the next: of a program with capabilities the loader drops ``LD_PRELOAD``."""
_PRELOAD: Final = "LD_PRELOAD"
_GLIBC_TUNABLES: Final = "GLIBC_TUNABLES"


def environment_for_models(environment: Mapping[str, str]) -> dict[str, str]:
    """What ``environment`` lacks for a process that runs models.

    Empty where a library is preloaded or glibc is tuned already, be it with an empty value: whoever starts a process
    decides. Without oneTBB, or where the loader could not read its path, glibc's own allocator takes huge pages
    (docs/decisions/0024-huge-pages.md).
    """
    if sys.platform != "linux" or _PRELOAD in environment or _GLIBC_TUNABLES in environment:
        return {}
    libraries = _installed()
    if len(libraries) < len(_LIBRARIES) or re.search(r"[:\s]", "".join(libraries)):  # they separate paths there
        return {_GLIBC_TUNABLES: "glibc.malloc.hugetlb=1"}
    return {_PRELOAD: ":".join(libraries)}


def start_anew_for_models() -> None:
    """Replace this process by itself, at most once, unless it has what ``environment_for_models`` asks for."""
    if os.environ.pop(_IS_ANEW, None) is None and (missing := environment_for_models(os.environ)):
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **missing, _IS_ANEW: "1"})


def _installed() -> list[str]:
    try:
        found = {path.name: os.path.realpath(path.locate()) for path in files("tbb") or () if path.name in _LIBRARIES}
    except PackageNotFoundError:
        return []
    return [found[name] for name in _LIBRARIES if os.path.isfile(found.get(name, ""))]
