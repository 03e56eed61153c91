"""Training from text pairs to a trained model's folder.

The entry point, which ``malgil-export train`` calls::

    train(config, train_files, valid_files, out, resume=False, console=None) -> TrainedModel

What a user can put right is raised as ``model_export.config.UserError`` (``ConfigError``, ``DataError``,
``TokenizerError``, ``TrainingError``); a stop by SIGINT or SIGTERM, once all is saved, as ``TrainingInterrupted``.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from model_export.config import RunConfig
from model_export.text.data import make_dataset
from model_export.text.progress import OnProgress, shown
from model_export.trained_model import TrainedModel, round_weights, save_trained_model, save_weights
from model_export.training.averaging import HIGHER_IS_BETTER, average_weights, chosen_epochs
from model_export.training.callbacks import ContinueMeans, ProgressBar, StopRequest, TrackProgress
from model_export.training.checkpoint import TrainingError
from model_export.training.metrics import Evaluator
from model_export.training.model import matrix_precision
from model_export.training.report import build_report, choose_samples, print_report
from model_export.training.run import Run, open_run


class TrainingInterrupted(TrainingError):
    """A signal stopped the run; its state is saved, and the message says how to go on."""


def train(
    config: RunConfig,
    train_files: Sequence[str],
    valid_files: Sequence[str] | None,
    out: Path,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> TrainedModel:
    """Train a model and write its folder ``out``.

    Args:
        config: the whole run.
        train_files: tab-separated files or globs.
        valid_files: the same for validation; ``None`` or empty: ``config.data.valid_fraction`` of the training pairs.
        out: a new folder; the state of the unfinished run is kept in ``out/training``.
        resume: go on with the run in ``out``, to the same result as if it had never stopped.
        console: where progress is told; standard error by default.

    Raises:
        UserError: see the module's docstring.
    """
    console = console or Console(stderr=True)
    run = open_run(config, train_files, valid_files, out, resume, console)
    with StopRequest() as request:
        while not _is_finished(run):
            _run_epoch(run, request)
            if request.received:
                raise TrainingInterrupted(
                    f"stopped by {request.received.name} in epoch {run.progress.epoch + 1} after "
                    f"{run.progress.batch} batches; all is saved: the same command with --resume goes on"
                )
    return _finish(run)


# --- the epochs -------------------------------------------------------------------------------------------------------


def _is_finished(run: Run) -> bool:
    """All epochs done, or too many of them without a better ``monitor``."""
    settings, history = run.config.training, run.progress.history
    if len(history) >= settings.epochs:
        return True
    if settings.patience is None or not history:
        return False
    sign = 1.0 if HIGHER_IS_BETTER[settings.monitor] else -1.0
    best = int(np.argmax([sign * entry[settings.monitor] for entry in history]))
    return len(history) - 1 - best >= settings.patience


def _run_epoch(run: Run, request: StopRequest) -> None:
    """The rest of the epoch under way, its validation, and the checkpoint; cut short by a stop request."""
    progress, settings, plan = run.progress, run.config.training, run.plan()
    lengths = run.train.encoded.target_lengths
    callbacks: list[keras.callbacks.Callback] = [
        TrackProgress(
            progress,
            [int(lengths[batch].sum()) for batch in plan],
            request,
            run.save,
            settings.checkpoint_every_steps,
        ),
    ]
    if progress.batch:
        callbacks.append(ContinueMeans([variable.numpy() for variable in run.training.metrics_variables]))
    dataset = make_dataset(run.train.encoded, plan[progress.batch :])
    title = f"epoch {progress.epoch + 1}/{settings.epochs}"
    with matrix_precision(settings.precision), ProgressBar(run.console, title, progress.batch, len(plan)) as bar:
        run.training.fit(dataset, verbose=0, shuffle=False, callbacks=[*callbacks, bar])
    if progress.batch < len(plan):
        run.save()
        return
    _end_epoch(run)


def _end_epoch(run: Run) -> None:
    means = {metric.name: float(metric.result()) for metric in run.training.metrics}
    if not means["loss"] < 10.0 * math.log(run.config.model.vocabulary_size):  # of a uniform guess; NaN is not less
        raise TrainingError(f"the loss is {means['loss']:.3g}, it diverged: lower training.optimizer.learning_rate")
    entry: dict[str, Any] = {"train_loss": means["loss"], "train_accuracy": means["accuracy"]}
    with shown(run.console) as on_progress:
        entry |= run.evaluator.losses(on_progress)
        if run.config.training.monitor in ("bleu", "chrf"):
            entry |= run.evaluator.scores(run.evaluator.translate(on_progress), on_progress)
    progress = run.progress
    entry["steps"] = progress.batch
    progress.history.append(entry)
    progress.epoch += 1
    progress.batch = 0
    save_weights(run.epoch_weights(progress.epoch), run.training.model)
    run.save()
    keep = {run.epoch_weights(epoch) for epoch in chosen_epochs(progress.history, run.config.training)}
    for path in run.checkpoint.parent.glob("epoch-*.safetensors"):
        if path not in keep:
            path.unlink()
    values = ", ".join(f"{name} {value:.4g}" for name, value in entry.items())
    speed = progress.target_tokens / progress.seconds
    run.console.print(f"epoch {progress.epoch}: {values}; {speed:,.0f} target tokens/s", soft_wrap=True)


# --- after ------------------------------------------------------------------------------------------------------------


def _finish(run: Run) -> TrainedModel:
    """Average, judge, write the folder, drop the state."""
    settings, model = run.config.training, run.training.model
    epochs = chosen_epochs(run.progress.history, settings)
    average_weights([run.epoch_weights(epoch) for epoch in epochs], model)
    with shown(run.console) as on_progress:
        exact, exact_texts = _judge(run.evaluator, on_progress)
        round_weights(model, settings.save_dtype)
        stored, stored_texts = _judge(run.evaluator, on_progress)
    identical = sum(exact_texts[source] == text for source, text in stored_texts.items()) / len(stored_texts)
    report = build_report(run.config, run.progress, (run.train, run.valid), epochs, stored, exact, identical)
    samples = choose_samples(run.valid)
    trained = TrainedModel(run.config, run.tokenizer.model, model, samples, report)
    save_trained_model(run.out, trained, settings.save_dtype)
    shutil.rmtree(run.checkpoint.parent)
    print_report(run.console, report)
    return trained


def _judge(evaluator: Evaluator, on_progress: OnProgress) -> tuple[dict[str, float], dict[str, str]]:
    """All metrics of the model as it is, and its answers."""
    losses, answers = evaluator.losses(on_progress), evaluator.translate(on_progress)
    return losses | evaluator.scores(answers, on_progress), answers
