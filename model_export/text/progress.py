"""How far work is: told by what does it, shown as a bar by what was asked for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

OnProgress = Callable[[str, int, int], None]
"""Is told a stage of the work, how much of it is done, and of how much in all: 0 where nobody can know."""


def silent(stage: str, done: int, total: int) -> None:
    """The ``OnProgress`` of those who do not want to know."""


@contextmanager
def shown(console: Console) -> Iterator[OnProgress]:
    """While entered, what was told last is a bar with "done/total". It is gone afterwards; without a terminal, none."""
    if not console.is_interactive:
        yield silent
        return
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # what goes to a file must not come out on the console
    )

    def show(stage: str, done: int, total: int) -> None:
        for task in bars.tasks:
            if task.description == stage:
                bars.update(task.id, completed=done, total=total or None)
                return
            bars.remove_task(task.id)
        bars.add_task(stage, completed=done, total=total or None)
        bars.start()
        bars.refresh()  # at once: what follows may keep the thread that draws from running

    try:
        yield show
    finally:
        bars.stop()
