"""Progress is seen on a terminal, and nowhere else."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from model_export.text.progress import shown


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=100)


def told(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_stage_is_shown_with_what_is_done_of_what() -> None:
    console = terminal()

    with shown(console) as on_progress:
        assert told(console) == ""  # nothing is known yet
        on_progress("reading [a].tsv", 0, 0)
        assert "reading [a].tsv" in told(console)
        assert "0/?" in told(console)
        on_progress("encoding", 3, 8)
        assert "3/8" in told(console)
        on_progress("encoding", 4, 8)

    last = told(console).rsplit("\r", maxsplit=1)[0]
    assert "4/8" in last
    assert "reading" not in last.rsplit("\r", maxsplit=1)[-1]


def test_a_stage_whose_size_becomes_known() -> None:
    console = terminal()

    with shown(console) as on_progress:
        on_progress("certifying", 0, 0)
        on_progress("certifying", 2, 7)

    assert "2/7" in told(console)


def test_the_bar_is_gone_after_a_failure() -> None:
    console = terminal()

    def fail() -> None:
        with shown(console) as on_progress:
            on_progress("reading", 1, 2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    assert told(console).endswith("\x1b[2K")  # the line is erased
    assert told(console).rindex("\x1b[?25h") > told(console).rindex("\x1b[?25l")  # and the cursor is back


def test_nothing_is_written_where_nobody_watches() -> None:
    console = Console(file=io.StringIO())

    with shown(console) as on_progress:
        on_progress("reading", 1, 2)

    assert told(console) == ""
