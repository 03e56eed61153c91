"""Between the steps: counting, saving, stopping, and means that go on."""

from __future__ import annotations

import io
import signal

import keras
import numpy as np
import pytest
from rich.console import Console

from model_export.training.callbacks import ContinueMeans, ProgressBar, StopRequest, TellBatches, TrackProgress
from model_export.training.checkpoint import Progress


def terminal(text: io.StringIO) -> Console:
    return Console(file=text, force_terminal=True, force_interactive=True, width=120)


def fit(*callbacks: keras.callbacks.Callback, batches: int = 6) -> keras.Model:
    """One epoch of a one-weight model, so many batches of one row each."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse", optimizer="sgd")
    rows = np.ones([batches, 1], np.float32)
    model.fit(rows, rows, batch_size=1, verbose=0, callbacks=list(callbacks))
    return model


def test_steps_and_tokens_are_counted_from_where_the_epoch_stood() -> None:
    progress = Progress(data_sha256="0", batch=2, target_tokens=100)
    saved: list[int] = []

    with StopRequest() as request:
        fit(
            TrackProgress(
                progress, [1, 2, 4, 8, 16, 32, 64, 128], request, lambda: saved.append(progress.batch), save_every=3
            )
        )

    assert (progress.batch, progress.target_tokens) == (8, 100 + 4 + 8 + 16 + 32 + 64 + 128)
    assert saved == [3, 6]
    assert progress.seconds > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_epoch_after_the_step_under_way(number: signal.Signals) -> None:
    class Signaller(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            if batch == 2:
                signal.raise_signal(number)

    progress = Progress(data_sha256="0")
    with StopRequest() as request:
        fit(Signaller(), TrackProgress(progress, [1] * 6, request, lambda: None, save_every=None))

    assert request.received == number
    assert progress.batch == 3


def test_the_second_signal_acts_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as request:
        signal.raise_signal(signal.SIGINT)
        assert request.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    assert signal.getsignal(signal.SIGINT) is before


def test_running_means_go_on() -> None:
    seen: list[float] = []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            seen.extend(float(variable.numpy()) for variable in self.model.metrics_variables)

    fit(ContinueMeans([np.float32(7.0), np.float32(3.0)]), Look())

    assert seen == [7.0, 3.0]


def test_the_bar_shows_steps_and_loss() -> None:
    text = io.StringIO()

    with ProgressBar(terminal(text), "epoch 3/9", finished=2, total=8) as bar:
        fit(bar)

    assert "epoch 3/9" in text.getvalue()
    assert "8/8" in text.getvalue()
    assert "loss" in text.getvalue()


def test_the_bar_is_gone_after_an_epoch_that_failed() -> None:
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            raise RuntimeError("out of memory")

    text = io.StringIO()
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        ProgressBar(terminal(text), "epoch 1/1", finished=0, total=6) as bar,
    ):
        fit(bar, Fail())

    assert text.getvalue().endswith("\x1b[2K")  # the line is erased
    assert text.getvalue().rindex("\x1b[?25h") > text.getvalue().rindex("\x1b[?25l")  # and the cursor is back


def test_batches_that_are_judged_are_told() -> None:
    told: list[tuple[str, int, int]] = []
    model = fit()
    rows = np.ones([4, 1], np.float32)

    telling = TellBatches(lambda *stage: told.append(stage), "judging", total=2)
    model.evaluate(rows, rows, batch_size=2, verbose=0, callbacks=[telling])

    assert told == [("judging", 0, 2), ("judging", 1, 2), ("judging", 2, 2)]
