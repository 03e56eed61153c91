"""The training and the validation side of a run's data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from model_export.config import RunConfig
from model_export.text.data import EncodedPairs, encode_pairs
from model_export.text.pairs import DataError, TextPairs, expand_files, read_pairs, split_pairs
from model_export.text.progress import OnProgress, silent
from model_export.text.tokenizers import SentencePieceTokenizer


class FileNames(NamedTuple):
    """Names (without folders) of the files that each side comes from."""

    train: list[str]
    valid: list[str]


@dataclass(frozen=True)
class Corpus:
    """One side: its text, its ids, and where it comes from."""

    files: list[str]
    pairs: TextPairs
    encoded: EncodedPairs

    @classmethod
    def encode(
        cls,
        pairs: TextPairs,
        files: list[str],
        tokenizer: SentencePieceTokenizer,
        config: RunConfig,
        kind: str = "text",
        on_progress: OnProgress = silent,
    ) -> Corpus:
        """Tokenise, and filter or truncate as ``config`` says; ``kind`` as of ``encode_pairs``."""
        return cls(files, pairs, encode_pairs(pairs, tokenizer, config.limits, config.data, kind, on_progress))

    @property
    def counts(self) -> dict[str, Any]:
        """For the report: pairs that are used, and lines and pairs that were not or not whole."""
        return {
            "files": self.files,
            "pairs": len(self.encoded.rows),
            "malformed": self.pairs.malformed,
            "filtered": self.encoded.filtered,
            "truncated": self.encoded.truncated,
        }

    def __str__(self) -> str:
        losses = [f"{self.counts[name]} {name}" for name in ("malformed", "filtered", "truncated") if self.counts[name]]
        return f"{len(self.encoded.rows):,} pairs" + (f" ({', '.join(losses)})" if losses else "")


def load_corpora(
    config: RunConfig,
    train_files: Sequence[str],
    valid_files: Sequence[str] | None,
    on_progress: OnProgress = silent,
) -> tuple[TextPairs, TextPairs, FileNames]:
    """Training and validation pairs: from files of their own, or split by ``config.data.valid_fraction``.

    Raises:
        DataError: one file on both sides; see ``read_pairs`` and ``split_pairs``.
    """
    train_paths, valid_paths = expand_files(train_files), expand_files(valid_files or [])
    for path in valid_paths:
        if any(path.samefile(other) for other in train_paths):
            raise DataError(f"{path} is among the training files too: validate on pairs that are not trained on")
    train = read_pairs(train_files, config.data.skip_malformed, on_progress)
    train_names = [path.name for path in train_paths]
    if valid_files:
        valid = read_pairs(valid_files, config.data.skip_malformed, on_progress)
        return train, valid, FileNames(train_names, [path.name for path in valid_paths])
    on_progress("holding out validation pairs", 0, 0)
    train, valid = split_pairs(train, config.data.valid_fraction, config.training.seed)
    return train, valid, FileNames(train_names, train_names)


def pairs_sha256(*corpora: TextPairs) -> str:
    """A digest of all pairs in their order."""
    digest = hashlib.sha256()
    for pairs in corpora:
        for source, target in zip(pairs.sources, pairs.targets, strict=True):
            digest.update(f"{source}\t{target}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()
