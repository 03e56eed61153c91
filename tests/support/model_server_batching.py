"""TF Serving's own batching (``--enable_batching``): what it merges, what it refuses, what it never answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import grpc
import numpy as np

from tests.support.model_server_faults import NeverAnswered, StatusError
from tests.support.model_server_session import Arrays, Run, invalid


@dataclass(frozen=True)
class BatchingOptions:
    """Names of TF Serving's ``--batching_parameters_file``, with its defaults."""

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 2
    pad_variable_length_inputs: bool = False


@dataclass(eq=False)
class _Task:
    feeds: Arrays
    size: int
    deadline: float  # on the clock of time.monotonic
    outputs: Future[list[np.ndarray]] = field(default_factory=Future)


@dataclass(eq=False)
class _Batch:
    tasks: list[_Task] = field(default_factory=list)
    full: threading.Event = field(default_factory=threading.Event)

    @property
    def size(self) -> int:
        return sum(task.size for task in self.tasks)


class Batching:
    """Runs what several calls at once ask of one loaded version; the call that opens a batch runs it."""

    def __init__(self, run: Run, options: BatchingOptions) -> None:
        self._run = run
        self._options = options
        self._queues: dict[tuple[str, ...], list[_Batch]] = {}  # by tensors; of each, the last batch may still grow
        self._lock = threading.Lock()
        self._threads = threading.Semaphore(options.num_batch_threads)

    def __call__(self, feeds: Arrays, fetches: Sequence[str], seconds_left: float | None) -> list[np.ndarray]:
        size = _size(feeds)
        if size > self._options.max_batch_size:
            raise invalid(f"Task size {size} is larger than maximum input batch size {self._options.max_batch_size}")
        if size == 0:
            raise NeverAnswered
        task = _Task(feeds, size, time.monotonic() + (seconds_left or threading.TIMEOUT_MAX))
        with self._lock:
            waiting = self._queues.setdefault((*sorted(feeds), *fetches), [])
            opened = self._put(task, waiting)
        if opened is not None:
            opened.full.wait(self._options.batch_timeout_micros / 1e6)
            with self._threads:
                with self._lock:
                    waiting.remove(opened)
                self._finish(opened.tasks, fetches)
        return task.outputs.result()

    def _put(self, task: _Task, waiting: list[_Batch]) -> _Batch | None:
        """The batch that the task opens, if it does not fit into one that waits."""
        limit = self._options.max_batch_size
        if waiting and waiting[-1].size + task.size <= limit:
            waiting[-1].tasks.append(task)
            if waiting[-1].size == limit:
                waiting[-1].full.set()
            return None
        if len(waiting) >= self._options.max_enqueued_batches:
            raise StatusError(
                grpc.StatusCode.UNAVAILABLE,
                f"The batch scheduling queue to which this task was submitted is full; currently {len(waiting)} "
                f"batches enqueued and max_enqueued_batches is {self._options.max_enqueued_batches}",
            )
        if waiting:
            waiting[-1].full.set()
        waiting.append(_Batch([task]))
        if task.size == limit:
            waiting[-1].full.set()
        return waiting[-1]

    def _finish(self, tasks: list[_Task], fetches: Sequence[str]) -> None:
        try:
            left = max(task.deadline for task in tasks) - time.monotonic()
            if left <= 0:
                message = "Run() timeout exceeded while waiting in batching queue"
                raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
            merged = {name: self._merge(name, [task.feeds[name] for task in tasks]) for name in tasks[0].feeds}
            seconds_left = left if left < threading.TIMEOUT_MAX / 2 else None
            parts = _split(self._run(merged, fetches, seconds_left), [task.size for task in tasks])
        except StatusError as error:
            for task in tasks:
                task.outputs.set_exception(error)
            return
        for index, task in enumerate(tasks):
            task.outputs.set_result([part[index] for part in parts])

    def _merge(self, name: str, arrays: list[np.ndarray]) -> np.ndarray:
        if self._options.pad_variable_length_inputs:
            inner = tuple(np.max([array.shape[1:] for array in arrays], axis=0))
            arrays = [_padded(array, inner) for array in arrays]
        elif len({array.shape[1:] for array in arrays}) > 1:
            raise StatusError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"Tensors with name '{name}' from different tasks have different shapes and padding is turned off."
                "Set pad_variable_length_inputs to true, or ensure that all tensors with the same name"
                "have equal dimensions starting with the first dim.",
            )
        return np.concatenate(arrays)


def _size(feeds: Arrays) -> int:
    sizes = {array.shape[:1] for array in map(np.asarray, feeds.values())}
    if () in sizes:
        raise invalid("Batching Run() input tensors must have at least one dimension")
    if len(sizes) > 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()[0]


def _split(outputs: list[np.ndarray], sizes: list[int]) -> list[list[np.ndarray]]:
    for output in map(np.asarray, outputs):
        if output.ndim == 0:
            raise StatusError(grpc.StatusCode.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
        if output.shape[0] != sum(sizes):
            raise StatusError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                "tensors",
            )
    return [np.split(output, np.cumsum(sizes)[:-1]) for output in outputs]


def _padded(array: np.ndarray, inner: tuple[int, ...]) -> np.ndarray:
    """With the tensor's own first element, as TF Serving pads."""
    padding = [(0, 0), *((0, wanted - size) for wanted, size in zip(inner, array.shape[1:], strict=True))]
    return np.pad(array, padding, constant_values=array.flat[0])
