"""TensorFlow's chatter: silenced, unless its import fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.model_export.terminal import plain, run_on_terminal

REPOSITORY = Path(__file__).parents[2]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_nothing_is_written_by_the_import_or_the_first_operation() -> None:
    ran = run_python(
        "from model_export.startup import load_tensorflow\n"
        "load_tensorflow()\n"
        "import sys, tensorflow as tf\n"
        "print(int(tf.function(lambda x: x + 1)(1)), 'keras' in sys.modules)\n"
        "print('told', file=sys.stderr)\n"
    )

    assert ran.returncode == 0
    assert ran.stdout == "2 True\n"
    assert ran.stderr == "told\n"


def test_a_terminal_shows_that_the_import_is_under_way() -> None:
    ran = run_on_terminal(
        sys.executable,
        "-c",
        "from model_export.startup import load_tensorflow\n"
        "load_tensorflow()\n"
        "load_tensorflow()  # at once, and shows nothing\n",
    )

    assert ran.returncode == 0
    assert "loading TensorFlow" in ran.stderr
    assert ran.stderr.count("\x1b[?25l") == 1  # one spinner
    assert ran.stderr.endswith("\x1b[2K")  # and it is gone
    assert plain(ran.stderr).replace("loading TensorFlow", "").strip(" \r\n⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏") == ""  # no notices


def test_an_import_that_fails_shows_what_was_written() -> None:
    ran = run_python(
        "import os, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'keras':\n"
        "            os.write(2, b'libexample.so is missing\\n')\n"
        "            raise ImportError('no keras today')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from model_export.startup import load_tensorflow\n"
        "load_tensorflow()\n"
    )

    assert ran.returncode == 1
    assert "libexample.so is missing\n" in ran.stderr
    assert "ImportError: no keras today" in ran.stderr
