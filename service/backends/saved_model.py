"""A SavedModel in a TF1 session, which is how TF Serving runs it.

TensorFlow is imported here, on first use, and nowhere else in the service.

Measured against ``tf.saved_model.load`` (8 rows, 16 steps, medians of a call): 51 ms and 52 ms, and twice the calls per
second from two threads on two cores either way, since both release the GIL. The session wins on what it offers: a time
limit that cancels a run, and the very path that a model takes in TF Serving.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.backend import Arrays
from service.errors import BackendFailed, BackendUnavailable, DeadlineExceeded

_SERVING_TAG = "serve"
_NEEDLESS_OPTIMIZATIONS: Final = (
    "arithmetic_optimization",
    "common_subgraph_elimination",  # the export has merged what is equal
    "constant_folding",
    "implementation_selector",
    "layout_optimizer",
    "loop_optimization",
    "shape_optimization",
)


@dataclass(frozen=True, slots=True)
class _Endpoints:
    """Tensors of one signature in the session's graph, by the signature's names."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


class SavedModel:
    """One loaded SavedModel. ``run`` may be called from many threads at once, each with a slot of its own or none; it
    blocks and releases the GIL."""

    def __init__(self, folder: Path, *, intra_op_threads: int, slots: int = 1) -> None:
        """Load ``folder``.

        Args:
            folder: of the SavedModel.
            intra_op_threads: within one operation.
            slots: runs that may go on at the same time.

        Raises:
            BackendFailed: it is not a SavedModel that this TensorFlow can load.
        """
        tf = tensorflow()
        if not (folder / "saved_model.pb").is_file():
            raise BackendFailed("saved_model.pb is missing")
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=intra_op_threads)
        # A thread for each slot: where runs share some, operations of microseconds are handed from one to the other.
        # The first pool is for what loading runs, which must not wait for requests, nor they for it.
        for name in ("malgil-load", *(f"malgil-slot-{slot}" for slot in range(slots))):
            config.session_inter_op_thread_pool.add(num_threads=1, global_name=name)
        _optimize_lightly(config)
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        try:
            with self._session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(self._session, [_SERVING_TAG], str(folder))
            self._signatures = {
                name: _Endpoints(
                    {key: self._session.graph.get_tensor_by_name(info.name) for key, info in signature.inputs.items()},
                    {key: self._session.graph.get_tensor_by_name(info.name) for key, info in signature.outputs.items()},
                )
                for name, signature in meta_graph.signature_def.items()
                if not name.startswith("__")  # TensorFlow's own, as __saved_model_init_op
            }
        except (tf.errors.OpError, OSError, ValueError, KeyError, RuntimeError) as error:
            self._session.close()
            raise BackendFailed(f"it could not be loaded: {one_line(error)}") from error

    @property
    def signatures(self) -> Mapping[str, tuple[set[str], set[str]]]:
        """Names of inputs and outputs of every signature in the graph."""
        return {name: (set(ends.inputs), set(ends.outputs)) for name, ends in self._signatures.items()}

    def run(
        self, signature: str, inputs: Arrays, deadline: float | None = None, *, slot: int | None = 0
    ) -> dict[str, NDArray[np.generic]]:
        """Run one signature.

        Args:
            signature: its name.
            inputs: its tensors.
            deadline: on the clock of ``time.monotonic``.
            slot: whose thread runs every operation, for one run at a time, of whatever model; None: the thread that
                calls. Such a run keeps no deadline.

        Raises:
            DeadlineExceeded: the deadline passed; the run is cancelled.
            BackendFailed: no such signature, or the graph failed.
            BackendUnavailable: the model was closed.
        """
        tf = tensorflow()
        endpoints = self._signatures.get(signature)
        if endpoints is None:
            raise BackendFailed(f"the model has no signature {signature!r}")
        options = tf.compat.v1.RunOptions(inter_op_thread_pool=-1 if slot is None else 1 + slot)
        if deadline is not None:
            left_ms = int((deadline - time.monotonic()) * 1000)
            if left_ms <= 0:
                raise DeadlineExceeded("the time of the request was over before the model ran")
            options.timeout_in_ms = left_ms
        feeds = {endpoints.inputs[name]: array for name, array in inputs.items()}
        try:
            outputs: dict[str, NDArray[np.generic]] = self._session.run(endpoints.outputs, feeds, options=options)
        except tf.errors.DeadlineExceededError as error:
            raise DeadlineExceeded("the model did not answer within the time of the request") from error
        except (tf.errors.CancelledError, RuntimeError) as error:  # RuntimeError: the session is closed
            raise BackendUnavailable("the model was unloaded while it ran") from error
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise BackendFailed(f"the model failed: {one_line(error)}") from error
        return outputs

    def close(self) -> None:
        """Free the session; runs that still go on end with BackendUnavailable."""
        self._session.close()
        gc.collect()  # of graphs closed before: their operations refer to each other, and hold what TensorFlow keeps


def _optimize_lightly(config: Any) -> None:
    """Leave out what takes most of the time of first calls and makes no later one faster.

    Measured in docs/decisions/0022. What fuses operations (remapping), inlines functions and drops the unused stays.
    """
    options = config.graph_options.rewrite_options
    for name in _NEEDLESS_OPTIMIZATIONS:
        setattr(options, name, options.OFF)
    options.memory_optimization = options.NO_MEM_OPT
    options.meta_optimizer_iterations = options.ONE
    options.disable_tfg_optimizer = True


def unknown_ops(names: Iterable[str]) -> list[str]:
    """Those of the operations that this TensorFlow does not know.

    Raises:
        BackendUnavailable: it is not installed.
    """
    tensorflow()
    from tensorflow.python.framework import op_def_registry  # noqa: PLC0415  tf.raw_ops has no private operations

    return [name for name in names if op_def_registry.get(name) is None]


def one_line(error: BaseException, limit: int = 300) -> str:
    """What an error says, without TensorFlow's headline before it and the pages of graph behind it."""
    message = str(getattr(error, "message", None) or error)
    lines = [line.strip() for line in message.splitlines() if line.strip() not in ("", "Graph execution error:")]
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= limit else line[: limit - 1] + "…"


@functools.cache
def tensorflow() -> Any:
    """TensorFlow with the ops of TF Text, imported once and without the chatter of either.

    Raises:
        BackendUnavailable: it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _native_stderr_muted():
            import tensorflow as tf  # noqa: PLC0415
            import tensorflow_text  # noqa: F401, PLC0415  registers the SentencePiece ops
    except ImportError as error:
        raise BackendUnavailable(f"models cannot run here: {error}; pip install 'malgil[embedded]'") from error
    tf.get_logger().setLevel("ERROR")
    gc.freeze()  # a collection takes the GIL for 0.4 s if it looks at all that was imported, which stays in any case
    return tf


@contextmanager
def _native_stderr_muted() -> Iterator[None]:
    """TensorFlow's libraries greet on file descriptor 2, whatever the log level says; an import that fails raises."""
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
