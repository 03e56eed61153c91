"""A process whose standard error is a terminal, as its users run it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run_on_terminal(*command: str) -> subprocess.CompletedProcess[str]:
    """Run to the end; ``stdout`` is what a file would get, ``stderr`` what the terminal got."""
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TF_CPP_MIN_LOG_LEVEL")}
    with (
        open(ours, "rb", buffering=0) as terminal,
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**clean, "TERM": "xterm-256color", "COLUMNS": "120"},
        ) as process,
    ):
        os.close(theirs)
        shown = b""
        try:
            while chunk := terminal.read(65536):
                shown += chunk
        except OSError:  # how Linux tells that nobody holds the other end any more
            pass
        output, _ = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, output.decode(), shown.decode())


def plain(text: str) -> str:
    """Without what moves the cursor and colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
