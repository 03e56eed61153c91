"""The parts of a SavedModel's session that the embedded backend's tests do not reach."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from service.backends.saved_model import SavedModel, one_line
from service.errors import BackendFailed, BackendUnavailable
from tests.support.server_process import REPOSITORY


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "Graph execution error:\n\nassertion failed: [too long] [3]\n\t [[{{node Assert}}]]",
            "assertion failed: [too long] [3]",
        ),
        ("  a line\nanother", "a line"),
        ("", "ValueError"),
        ("x" * 500, "x" * 299 + "…"),
    ],
)
def test_an_error_is_told_in_its_first_telling_line(message, line):
    assert one_line(ValueError(message)) == line


def test_a_session_runs_what_it_has_and_nothing_once_closed(tmp_path):
    import tensorflow as tf

    double = tf.function(lambda x: {"y": 2 * x}).get_concrete_function(x=tf.TensorSpec([None], tf.float32))
    tf.saved_model.save(tf.Module(), str(tmp_path), signatures={"double": double})
    model = SavedModel(tmp_path, intra_op_threads=1)
    assert model.signatures == {"double": ({"x"}, {"y"})}
    inputs = {"x": np.array([1.5, 2], np.float32)}
    assert model.run("double", inputs)["y"].tolist() == [3, 4]
    with pytest.raises(BackendFailed, match="no signature 'halve'"):
        model.run("halve", inputs)
    model.close()
    with pytest.raises(BackendUnavailable):
        model.run("double", inputs)


def _counting_model(folder, **settings):
    """Counts from its input up to 0 by ones."""
    import tensorflow as tf

    count = tf.function(lambda x: {"y": tf.while_loop(lambda y: y < 0, lambda y: (y + 1.0,), (x,))[0]})
    signature = count.get_concrete_function(x=tf.TensorSpec([], tf.float64))
    tf.saved_model.save(tf.Module(), str(folder), signatures={"count": signature})
    return SavedModel(folder, intra_op_threads=1, **settings)


@pytest.mark.parametrize("slot", [0, None])
def test_a_run_takes_the_thread_that_it_should(tmp_path, slot):
    model = _counting_model(tmp_path)
    model.run("count", {"x": np.array(-1.0)}, slot=slot)  # compiles, on this thread in any case
    mine, all_threads = time.thread_time(), time.process_time()
    assert model.run("count", {"x": np.array(-1e5)}, slot=slot)["y"] == 0
    mine, all_threads = time.thread_time() - mine, time.process_time() - all_threads
    assert (mine > all_threads / 2) is (slot is None)
    model.close()


@contextmanager
def _endless_run(model, slot):
    """While entered; closing the model ends it, and with it the context."""
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(model.run, "count", {"x": np.array(-1e15)}, time.monotonic() + 60, slot=slot)
        time.sleep(0.5)
        yield
        assert not run.done()
        model.close()
        with pytest.raises(BackendUnavailable):
            run.result(timeout=5)


def test_closing_a_session_ends_its_runs(tmp_path):
    with _endless_run(_counting_model(tmp_path), slot=0):
        pass


def test_runs_in_other_slots_do_not_wait_for_each_other(tmp_path):
    model = _counting_model(tmp_path, slots=2)
    with _endless_run(model, slot=1):
        assert model.run("count", {"x": np.array(-1e4)}, time.monotonic() + 20, slot=0)["y"] == 0


def test_a_model_is_loaded_while_every_slot_is_taken(tmp_path):
    with _endless_run(_counting_model(tmp_path), slot=0):
        SavedModel(tmp_path, intra_op_threads=1).close()


def test_tensorflow_is_imported_without_a_word():
    code = "from service.backends.saved_model import tensorflow; print(tensorflow().__name__)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("tensorflow\n", "")


def test_without_tensorflow_it_is_said_what_to_install():
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from service.backends.saved_model import tensorflow\n"
        "from service.errors import BackendUnavailable\n"
        "try:\n"
        "    tensorflow()\n"
        "except BackendUnavailable as error:\n"
        "    print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "pip install 'malgil[embedded]'" in ran.stdout
