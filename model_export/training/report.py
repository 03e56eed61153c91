"""What a finished run says of itself: ``report.json`` and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from model_export.config import RunConfig
from model_export.training.checkpoint import Progress
from model_export.training.corpus import Corpus

MOST_SAMPLES = 64


def build_report(
    config: RunConfig,
    progress: Progress,
    corpora: tuple[Corpus, Corpus],
    averaged_epochs: Sequence[int],
    metrics: Mapping[str, float],
    float32_metrics: Mapping[str, float],
    identical_outputs: float,
) -> dict[str, Any]:
    """The provenance of a model.

    Args:
        config: the run's.
        progress: at its end.
        corpora: training and validation.
        averaged_epochs: whose weights the final ones are the mean of.
        metrics: of the final weights as they are stored, on the validation pairs.
        float32_metrics: the same before they were rounded to the stored dtype.
        identical_outputs: share of validation sources to which both give the same answer.
    """
    train, valid = corpora
    return {
        "model": config.model.name,
        "data": {"train": train.counts, "valid": valid.counts, "sha256": progress.data_sha256},
        "epochs": progress.epoch,
        "averaged_epochs": list(averaged_epochs),
        "steps": sum(entry["steps"] for entry in progress.history),
        "target_tokens": progress.target_tokens,
        "seconds": round(progress.seconds, 1),
        "target_tokens_per_second": round(progress.target_tokens / progress.seconds, 1),
        "metrics": dict(metrics),
        "storage": {
            "dtype": config.training.save_dtype,
            "float32_metrics": dict(float32_metrics),
            "identical_outputs": identical_outputs,
        },
        "history": progress.history,
        "packages": {name: version(name) for name in ("tensorflow-text", "keras", "sentencepiece", "sacrebleu")},
    }


def choose_samples(corpus: Corpus) -> list[str]:
    """Up to 64 different sources: the longest quarter by tokens, the rest spread evenly over the corpus."""
    length_of: dict[str, int] = {}
    for row, length in zip(corpus.encoded.rows, corpus.encoded.source_lengths, strict=True):
        length_of.setdefault(corpus.pairs.sources[row], int(length))
    by_length = sorted(length_of, key=lambda source: -length_of[source])
    longest, rest = by_length[: MOST_SAMPLES // 4], sorted(by_length[MOST_SAMPLES // 4 :])
    places = np.linspace(0, len(rest) - 1, min(len(rest), MOST_SAMPLES - len(longest))).astype(int)
    return longest + [rest[place] for place in places]


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """The figures that matter, as a table."""
    table = Table(title=f"{report['model']} on the validation pairs", show_header=False)
    names = {
        "loss": "loss, nats per token",
        "perplexity": "perplexity",
        "accuracy": "token accuracy",
        "bleu": "BLEU",
        "chrf": "chrF",
    }
    for key, name in names.items():
        table.add_row(name, f"{report['metrics'][key]:.4g}")
    table.add_row("epochs, steps", f"{report['epochs']}, {report['steps']:,}")
    table.add_row("averaged epochs", ", ".join(map(str, report["averaged_epochs"])))
    table.add_row("training time, s", f"{report['seconds']:,.0f}")
    table.add_row("target tokens/s", f"{report['target_tokens_per_second']:,.0f}")
    storage = report["storage"]
    if storage["dtype"] != "float32":
        same = f"{storage['identical_outputs']:.1%} of the outputs as in float32"
        table.add_row(f"stored as {storage['dtype']}", same)
    console.print(table)
