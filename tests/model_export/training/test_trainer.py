"""Whole runs of a tiny model: what they leave behind, and that a stopped one ends as if it had never stopped."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from model_export.config import RunConfig
from model_export.text.pairs import DataError, read_pairs
from model_export.text.tokenizers import SentencePieceTokenizer
from model_export.trained_model import TrainedModel, load_trained_model
from model_export.training.checkpoint import TrainingError
from model_export.training.trainer import TrainingInterrupted, train
from tests.support.tiny_training import pairs, tiny_config, write_pairs

CONFIG = tiny_config(epochs=4, average_epochs=2, save_dtype="float16", checkpoint_every_steps=2)

FILES = ("train.tsv", "valid.tsv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With training pairs, one line of them malformed, and validation pairs, one source of which has two targets."""
    path = tmp_path_factory.mktemp("run")
    rows = pairs()
    train_file = write_pairs(path / FILES[0], rows[8:])
    with open(train_file, "a", encoding="utf-8") as file:
        file.write("no target\n")
    write_pairs(path / FILES[1], [*rows[:8], (rows[0][0], "autre réponse")])
    return path


def config() -> RunConfig:
    return CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"skip_malformed": True})})


def run(folder: Path, out: str, console: Console | None = None, **options: Any) -> TrainedModel:
    train_file, valid_file = (str(folder / name) for name in FILES)
    console = console or Console(file=io.StringIO())
    return train(config(), [train_file], [valid_file], folder / out, console=console, **options)


@pytest.fixture(scope="module")
def told() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def whole(folder: Path, told: io.StringIO) -> TrainedModel:
    """A run that nothing stopped."""
    return run(folder, "whole", Console(file=told, width=200))


def assert_same_result(found: TrainedModel, expected: TrainedModel) -> None:
    """Every loss of every epoch and every weight, to the last bit."""
    assert found.report["history"] == expected.report["history"]
    assert found.report["metrics"] == expected.report["metrics"]
    for weight, other in zip(found.model.weights, expected.model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), other.numpy(), err_msg=weight.path)


# --- a whole run ------------------------------------------------------------------------------------------------------


def test_the_report(whole: TrainedModel) -> None:
    report = whole.report

    assert report["data"]["train"] == {
        "files": ["train.tsv"],
        "pairs": 52,
        "malformed": 1,
        "filtered": 0,
        "truncated": 0,
    }
    assert report["data"]["valid"]["pairs"] == 9
    assert (report["epochs"], report["averaged_epochs"], len(report["history"])) == (4, [3, 4], 4)
    assert report["steps"] == sum(entry["steps"] for entry in report["history"]) > 3
    assert report["metrics"]["perplexity"] == pytest.approx(math.exp(report["metrics"]["loss"]))
    assert set(report["metrics"]) == {"loss", "perplexity", "accuracy", "bleu", "chrf"}
    assert 0.0 <= report["storage"]["identical_outputs"] <= 1.0
    assert report["storage"]["float32_metrics"]["loss"] == pytest.approx(report["metrics"]["loss"], abs=1e-2)


def test_target_tokens_are_counted_without_padding(folder: Path, whole: TrainedModel) -> None:
    targets = read_pairs([str(folder / FILES[0])], skip_malformed=True).targets
    ids = SentencePieceTokenizer(whole.tokenizer).tokenize(targets)
    labels = int(ids.row_lengths().numpy().sum()) + len(targets)  # each with its EOS

    assert whole.report["target_tokens"] == 4 * labels
    speed = whole.report["target_tokens_per_second"]
    assert speed == pytest.approx(whole.report["target_tokens"] / whole.report["seconds"], rel=0.05)


def test_training_learns(whole: TrainedModel) -> None:
    losses = [entry["loss"] for entry in whole.report["history"]]

    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.1


def test_what_is_told(whole: TrainedModel, told: io.StringIO) -> None:
    text = told.getvalue()

    assert "52 pairs (1 malformed)" in text
    assert text.count("epoch ") >= 3
    for row in ("loss, nats per token", "perplexity", "token accuracy", "BLEU", "chrF", "target tokens/s"):
        assert row in text


def test_the_folder_holds_a_trained_model_and_nothing_else(folder: Path, whole: TrainedModel) -> None:
    assert sorted(path.name for path in (folder / "whole").iterdir()) == [
        "config.yaml",
        "report.json",
        "samples.txt",
        "tokenizer.model",
        "weights.safetensors",
    ]
    loaded = load_trained_model(folder / "whole")
    assert (loaded.config, loaded.report) == (config(), whole.report)
    for weight, other in zip(loaded.model.weights, whole.model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), other.numpy())


def test_samples_are_different_real_sources_with_the_longest(folder: Path, whole: TrainedModel) -> None:
    sources = read_pairs([str(folder / FILES[1])]).sources

    assert sorted(whole.samples) == sorted(set(sources))
    assert len(whole.samples[0]) == max(map(len, sources))


def test_everything_that_takes_time_is_shown_on_a_terminal(
    folder: Path, whole: TrainedModel, told: io.StringIO
) -> None:
    seen = io.StringIO()
    run(folder, "watched", Console(file=seen, force_terminal=True, force_interactive=True, width=200))

    for stage in (
        "reading train.tsv",
        "training the tokenizer",
        "encoding the training pairs",
        "encoding the validation pairs",
        "building the model",
        "epoch 1/4",
        "losses of the validation pairs",
        "answers to the validation sources",
        "BLEU and chrF",
    ):
        assert stage in seen.getvalue()
        assert stage not in told.getvalue()
    assert "\x1b" not in told.getvalue()


# --- stopped runs -----------------------------------------------------------------------------------------------------

KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from model_export.config import load_config
from model_export.training import callbacks, trainer

class Killer(callbacks.TrackProgress):
    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if (self._progress.epoch, self._progress.batch) == (1, 3):  # one step after the last checkpoint
            os.kill(os.getpid(), signal.SIGKILL)

trainer.TrackProgress = Killer
train_file, valid_file, config, out = sys.argv[1:]
trainer.train(load_config(config), [train_file], [valid_file], Path(out))
"""


class InterruptingConsole(Console):
    """Presses Ctrl-C shortly after the second epoch was told."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        if objects and str(objects[0]).startswith("epoch 2:"):
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()


def test_a_run_that_was_killed_and_then_interrupted_ends_as_if_it_had_never_stopped(
    folder: Path, whole: TrainedModel
) -> None:
    (folder / "run.yaml").write_text(config().to_yaml(), encoding="utf-8")
    arguments = [*(str(folder / name) for name in (*FILES, "run.yaml", "stopped"))]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, *arguments],
        check=False,
        capture_output=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match=r"SIGINT in epoch \d after \d+ batches; .* --resume goes on"):
        run(folder, "stopped", InterruptingConsole(file=io.StringIO()), resume=True)
    assert signal.getsignal(signal.SIGINT) is handler

    resumed = run(folder, "stopped", resume=True)

    assert_same_result(resumed, whole)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_a_run_is_not_overwritten(folder: Path, whole: TrainedModel) -> None:
    for resume in (False, True):
        with pytest.raises(TrainingError, match="is finished: choose another folder"):
            run(folder, "whole", resume=resume)

    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "config.yaml").write_text(whole.config.to_yaml(), encoding="utf-8")
    with pytest.raises(TrainingError, match="holds a run already: --resume goes on"):
        run(folder, "unfinished")


def test_nothing_to_resume(folder: Path) -> None:
    with pytest.raises(TrainingError, match="holds no run to resume"):
        run(folder, "nothing", resume=True)


def test_a_run_resumes_with_its_own_configuration_and_data_only(folder: Path, tmp_path: Path) -> None:
    rows = pairs()
    files = [write_pairs(tmp_path / "train.tsv", rows)]
    out = tmp_path / "out"
    broken = tiny_config(optimizer={"learning_rate": 1e30, "warmup_steps": 0}, epochs=1, label_smoothing=0.0)
    with pytest.raises(TrainingError, match=r"it diverged: lower training\.optimizer\.learning_rate"):
        train(broken, files, None, out, console=Console(file=io.StringIO()))

    with pytest.raises(TrainingError, match=r"another configuration \(training\)"):
        train(tiny_config(), files, None, out, resume=True)
    write_pairs(tmp_path / "train.tsv", rows[1:])
    with pytest.raises(TrainingError, match="other text pairs"):
        train(broken, files, None, out, resume=True, console=Console(file=io.StringIO()))


@pytest.mark.parametrize(("train_words", "valid_words", "kind"), [(2, 40, "validation"), (40, 2, "training")])
def test_pairs_that_are_all_too_long_are_told_apart(
    train_words: int, valid_words: int, kind: str, tmp_path: Path
) -> None:
    files = [
        write_pairs(tmp_path / name, [(f"{source} " * words, target) for source, target in pairs(40)])
        for name, words in zip(FILES, (train_words, valid_words), strict=True)
    ]
    with pytest.raises(DataError, match=f"every {kind} pair exceeds limits"):
        train(tiny_config(), files[:1], files[1:], tmp_path / "out", console=Console(file=io.StringIO()))


# --- the rest of the options ------------------------------------------------------------------------------------------


def test_early_stopping_on_a_decoded_metric_in_bfloat16(tmp_path: Path) -> None:
    """Nothing can be learned at such a rate: BLEU stays as it was in the first epoch."""
    settings = tiny_config(
        epochs=20,
        monitor="bleu",
        patience=2,
        average="best",
        precision="bfloat16",
        optimizer={"learning_rate": 1e-9},
    )
    files = [write_pairs(tmp_path / "train.tsv", pairs(20))]

    trained = train(settings, files, None, tmp_path / "out", console=Console(file=io.StringIO()))

    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["epochs"] == 3
    assert "bleu" in report["history"][0]
    assert report["data"]["valid"]["pairs"] == 1  # 5 % of 20, held out of the training file
    assert trained.report == report
