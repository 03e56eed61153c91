"""A corpus and a configuration small enough to train within a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_export.config import RunConfig

ENGLISH = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
FRENCH = ["zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix"]


def pairs(count: int = 60) -> list[tuple[str, str]]:
    """Different sums, of two and of three numbers."""
    found = []
    for number in range(count):
        digits = [number % 11, number * 7 // 11 % 11, number * 3 % 11][: 2 + number % 2]
        found.append((" plus ".join(ENGLISH[d] for d in digits) + ".", " et ".join(FRENCH[d] for d in digits) + "."))
    return found


def write_pairs(path: Path, rows: list[tuple[str, str]]) -> str:
    """A tab-separated file; its name as the command line takes it."""
    path.write_text("".join(f"{source}\t{target}\n" for source, target in rows), encoding="utf-8")
    return str(path)


def tiny_config(**training: Any) -> RunConfig:
    """A Transformer of 20 thousand parameters with dropout, a few epochs of a few batches."""
    return RunConfig.model_validate(
        {
            "model": {
                "architecture": "transformer",
                "vocabulary_size": 300,
                "hidden_size": 16,
                "num_heads": 2,
                "feed_forward_size": 32,
                "num_encoder_layers": 1,
                "num_decoder_layers": 1,
                "norm": "pre",
                "dropout": 0.2,
                "tie_output": True,
            },
            "limits": {"max_source_tokens": 64, "max_target_tokens": 64, "default_max_new_tokens": 8},
            "tokenizer": {"model_type": "bpe"},
            "training": {"epochs": 3, "batch_tokens": 200, "optimizer": {"warmup_steps": 10}, **training},
        }
    )
