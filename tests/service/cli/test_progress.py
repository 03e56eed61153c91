"""The bar, on a terminal that is none."""

import io

import pytest
from rich.console import Console

from service.cli import progress


@pytest.fixture
def terminal(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(progress, "notes", lambda: Console(file=shown, force_terminal=True, width=100))
    return shown


@pytest.mark.parametrize(("total", "expected"), [(1000, "250/1000"), (None, "250/?")])
def test_done_of_all_if_that_is_known(terminal, total, expected):
    with progress.shown("generate", 200, lambda: total, is_silent=False) as advance:
        advance(20)
        advance(30)
    assert expected in terminal.getvalue()


def test_silence(terminal):
    with progress.shown("generate", 0, lambda: pytest.fail("counted for nobody"), is_silent=True) as advance:
        advance(1)
    assert terminal.getvalue() == ""
