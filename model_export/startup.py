"""TensorFlow without its start-up notices."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner


def load_tensorflow() -> None:
    """Import TensorFlow, TF Text and Keras in silence, and keep them quiet: their errors come as exceptions.

    ``TF_CPP_MIN_LOG_LEVEL`` in the environment makes them talk again. Some notices are written before they read it, to
    the file descriptor of standard error. It therefore points elsewhere during the import; a failure shows them. The
    import takes seconds: a terminal shows that it is under way.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as notices:
        os.dup2(notices.fileno(), 2)
        try:
            with _spinner(standard_error):
                import keras  # noqa: F401
                import tensorflow as tf
                import tensorflow_text  # noqa: F401
        except ImportError:
            notices.seek(0)
            os.write(standard_error, notices.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
    tf.get_logger().setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)


@contextmanager
def _spinner(descriptor: int) -> Iterator[None]:
    """Shown on the terminal ``descriptor``, if it is one and TensorFlow is not there yet."""
    if "tensorflow" in sys.modules or not os.isatty(descriptor):
        yield
        return
    with open(descriptor, "w", encoding="utf-8", closefd=False) as terminal:
        console = Console(file=terminal)
        spinner = Spinner("dots", "loading TensorFlow")
        with Live(spinner, console=console, transient=True, redirect_stdout=False, redirect_stderr=False):
            yield
