"""How far a command is, as a bar on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from service.cli.console import notes


class _Rate(ProgressColumn):
    """Lines a second, lately."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f}/s" if task.speed else "")


@contextmanager
def shown(
    stage: str, done: int, count: Callable[[], int | None], *, is_silent: bool
) -> Iterator[Callable[[int], None]]:
    """While entered, what is returned moves a bar on, by so many lines; it is gone afterwards.

    ``done``: what is done already. ``count``: of all lines, asked only if the bar is shown, which it is on a terminal.
    """
    console = notes()
    if is_silent or not console.is_terminal:
        yield lambda lines: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()
    # What goes to a file must not come out on the console.
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bars:
        task = bars.add_task(stage, completed=done, total=count())
        yield lambda lines: bars.advance(task, lines)
