"""What happens between the steps of an epoch: counting, checkpoints, stopping by a signal, the progress bar."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model_export.text.progress import OnProgress
from model_export.training.checkpoint import Progress as RunProgress


class StopRequest:
    """While entered, SIGINT and SIGTERM ask for a stop at the next step; the second one acts at once, as usual."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())


class TrackProgress(keras.callbacks.Callback):
    """Keeps ``progress`` true after every step, saves every ``save_every`` steps, and heeds a stop request."""

    def __init__(
        self,
        progress: RunProgress,
        batch_tokens: Sequence[int],
        request: StopRequest,
        save: Callable[[], None],
        save_every: int | None,
    ) -> None:
        """``batch_tokens``: labels of every batch of this epoch, finished ones included."""
        super().__init__()
        self._progress = progress
        self._batch_tokens = batch_tokens
        self._request = request
        self._save = save
        self._save_every = save_every
        self._began = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock of one step."""
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Count the step; save or stop if it is time."""
        progress = self._progress
        progress.seconds += time.perf_counter() - self._began
        progress.target_tokens += self._batch_tokens[progress.batch]
        progress.batch += 1
        if self._request.received:
            self.model.stop_training = True
        elif self._save_every and progress.batch % self._save_every == 0:
            self._save()


class ContinueMeans(keras.callbacks.Callback):
    """Keras resets the running means when an epoch begins; a resumed epoch goes on from where they were."""

    def __init__(self, values: list[NDArray[np.float32]]) -> None:
        super().__init__()
        self._values = values

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Put the values back."""
        for variable, value in zip(self.model.metrics_variables, self._values, strict=True):
            variable.assign(value)


class TellBatches(keras.callbacks.Callback):
    """Tells how many batches have been judged."""

    def __init__(self, on_progress: OnProgress, stage: str, total: int) -> None:
        super().__init__()
        self._on_progress = on_progress
        self._stage = stage
        self._total = total

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """None yet."""
        self._on_progress(self._stage, 0, self._total)

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """One more."""
        self._on_progress(self._stage, batch + 1, self._total)


class ProgressBar(keras.callbacks.Callback):
    """While entered, one bar for the epoch; none where there is no terminal."""

    def __init__(self, console: Console, description: str, finished: int, total: int) -> None:
        super().__init__()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(
            *columns,
            TextColumn("{task.fields[loss]}"),
            console=console,
            transient=True,
            disable=not console.is_interactive,
        )
        self._task = self._bar.add_task(description, total=total, completed=finished, loss="")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Move it."""
        self._bar.update(self._task, advance=1, loss=f"loss {float((logs or {})['loss']):.3f}")
