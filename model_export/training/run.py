"""One run: its folder, its data, its model; begun anew or resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from model_export.config import CONFIG_FILE, RunConfig, load_config
from model_export.models import build_model
from model_export.text.data import plan_batches
from model_export.text.progress import OnProgress, shown
from model_export.text.tokenizers import SentencePieceTokenizer, train_sentencepiece
from model_export.trained_model import REPORT_FILE, TOKENIZER_FILE
from model_export.training.checkpoint import Progress, TrainingError, load_checkpoint, save_checkpoint
from model_export.training.corpus import Corpus, load_corpora, pairs_sha256
from model_export.training.metrics import Evaluator
from model_export.training.model import TrainingModel, compile_for_training

STATE_FOLDER = "training"
CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass
class Run:
    """One run in progress."""

    config: RunConfig
    out: Path
    tokenizer: SentencePieceTokenizer
    train: Corpus
    valid: Corpus
    training: TrainingModel
    evaluator: Evaluator
    progress: Progress
    console: Console

    @property
    def checkpoint(self) -> Path:
        """The state of the run."""
        return self.out / STATE_FOLDER / CHECKPOINT_FILE

    def epoch_weights(self, epoch: int) -> Path:
        """The weights at the end of ``epoch``, from 1."""
        return self.out / STATE_FOLDER / f"epoch-{epoch:04d}.safetensors"

    def save(self) -> None:
        """Save the state."""
        save_checkpoint(self.checkpoint, self.training, self.progress)

    def plan(self) -> list[NDArray[np.int64]]:
        """The batches of the epoch under way."""
        training = self.config.training
        return plan_batches(self.train.encoded, training.batch_tokens, (training.seed, self.progress.epoch))


def open_run(
    config: RunConfig,
    train_files: Sequence[str],
    valid_files: Sequence[str] | None,
    out: Path,
    resume: bool,
    console: Console,
) -> Run:
    """Read the data, build or restore everything, and tell the console what this run is; arguments as of ``train``."""
    _check_folder(config, out, resume)
    with shown(console) as on_progress:
        run, steps = _build_run(config, train_files, valid_files, out, resume, console, on_progress)
    _tell_start(run, steps)
    return run


def _build_run(
    config: RunConfig,
    train_files: Sequence[str],
    valid_files: Sequence[str] | None,
    out: Path,
    resume: bool,
    console: Console,
    on_progress: OnProgress,
) -> tuple[Run, int]:
    """The run, and the steps that it has in all."""
    keras.utils.set_random_seed(config.training.seed)  # before the tokenizer: it drops the resources of eager kernels
    train_pairs, valid_pairs, files = load_corpora(config, train_files, valid_files, on_progress)
    if resume:
        tokenizer_model = (out / TOKENIZER_FILE).read_bytes()
    else:
        on_progress("training the tokenizer", 0, 0)
        texts = (text for side in (train_pairs.sources, train_pairs.targets) for text in side)
        tokenizer_model = train_sentencepiece(texts, config.model.vocabulary_size, config.tokenizer)
    tokenizer = SentencePieceTokenizer(tokenizer_model)
    train_corpus = Corpus.encode(train_pairs, files.train, tokenizer, config, "training", on_progress)
    valid_corpus = Corpus.encode(valid_pairs, files.valid, tokenizer, config, "validation", on_progress)
    on_progress("building the model", 0, 0)
    settings = config.training
    model = build_model(config.model, config.limits)
    steps = settings.epochs * len(plan_batches(train_corpus.encoded, settings.batch_tokens, None))
    training = compile_for_training(model, settings, steps)
    evaluator = Evaluator(training, tokenizer, config.limits, valid_corpus, settings.batch_tokens)
    progress = Progress(data_sha256=pairs_sha256(train_pairs, valid_pairs))
    run = Run(config, out, tokenizer, train_corpus, valid_corpus, training, evaluator, progress, console)
    if resume:
        run.progress = _load_state(run)
    else:
        run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        (out / TOKENIZER_FILE).write_bytes(tokenizer_model)
        run.save()
        (out / CONFIG_FILE).write_text(config.to_yaml(), encoding="utf-8")  # last: from now on there is a run
    return run, steps


def _check_folder(config: RunConfig, out: Path, resume: bool) -> None:
    has_run = (out / CONFIG_FILE).is_file()
    if (out / REPORT_FILE).is_file():
        raise TrainingError(f"the run in {out} is finished: choose another folder")
    if not resume:
        if has_run:
            raise TrainingError(f"{out} holds a run already: --resume goes on with it, or choose another folder")
        return
    if not has_run:
        raise TrainingError(f"{out} holds no run to resume")
    before, now = load_config(str(out / CONFIG_FILE)).model_dump(), config.model_dump()
    if before != now:
        differing = ", ".join(key for key in now if before[key] != now[key])
        raise TrainingError(f"{out} was started with another configuration ({differing}): resume with the same")


def _load_state(run: Run) -> Progress:
    progress = load_checkpoint(run.checkpoint, run.training)
    if progress.data_sha256 != run.progress.data_sha256:
        raise TrainingError(f"{run.out} was started with other text pairs: resume with the same files")
    return progress


def _tell_start(run: Run, steps: int) -> None:
    run.console.print(
        f"{run.config.model.name}: {run.training.model.count_params():,} parameters; {run.train}; "
        f"validation: {run.valid}; {steps} steps",
        soft_wrap=True,
    )
    if run.progress.epoch or run.progress.batch:
        run.console.print(f"resumed in epoch {run.progress.epoch + 1} after {run.progress.batch} batches")
