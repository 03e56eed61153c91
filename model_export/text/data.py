"""Text pairs: read, checked, split, turned into ids, and batched with ``tf.data``."""

from __future__ import annotations

import codecs
import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model_export.config import DataConfig, LimitsConfig, UserError
from model_export.text.progress import OnProgress, silent
from model_export.text.tokenizers import BOS_ID, EOS_ID, SentencePieceTokenizer

_LINES_TOLD = 10_000
"""Progress is told after so many lines."""
_PAIRS_ENCODED = 10_000
"""As many are encoded at a time, so that there is progress to tell."""


class DataError(UserError):
    """Files or lines that cannot be used; the message names file and line."""


# --- text -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextPairs:
    """Source and target sentences, in the order of the files."""

    sources: list[str]
    targets: list[str]
    malformed: int = 0
    """Lines that were skipped."""

    def __len__(self) -> int:
        return len(self.sources)


def expand_files(patterns: Sequence[str]) -> list[Path]:
    """Files named by paths or globs (``**`` allowed), each once, globs in sorted order.

    Raises:
        DataError: a path or pattern that matches no file.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        matches = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        found = [Path(match) for match in matches if Path(match).is_file()]
        if not found:
            raise DataError(f"{pattern}: no such file")
        files.update(dict.fromkeys(found))
    return list(files)


def read_pairs(patterns: Sequence[str], skip_malformed: bool = False, on_progress: OnProgress = silent) -> TextPairs:
    """Read tab-separated files: one pair a line, exactly two non-empty fields, UTF-8 (a byte order mark is none of it).

    Raises:
        DataError: no such file, no pair at all, or (unless ``skip_malformed``) a malformed line.
    """
    sources, targets, malformed = [], [], 0
    for path in expand_files(patterns):
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).removesuffix(b"\n").split(b"\n")
        for number, line in enumerate(lines, start=1):
            if number % _LINES_TOLD == 1:
                on_progress(f"reading {path.name}", number - 1, len(lines))
            try:
                source, target = _parse_line(line)
            except DataError as error:
                if not skip_malformed:
                    raise DataError(f"{path}:{number}: {error}") from error
                malformed += 1
                continue
            sources.append(source)
            targets.append(target)
    if not sources:
        raise DataError(f"{', '.join(patterns)}: no pairs")
    return TextPairs(sources, targets, malformed)


def _parse_line(line: bytes) -> tuple[str, str]:
    try:
        fields = line.decode("utf-8").removesuffix("\r").split("\t")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start + 1} of the line") from error
    if len(fields) != 2:
        raise DataError(f"source and target separated by one tab are expected, not {len(fields)} field(s)")
    for name, text in zip(("source", "target"), fields, strict=True):
        if not text.strip():
            raise DataError(f"the {name} is empty")
    return fields[0], fields[1]


def split_pairs(pairs: TextPairs, valid_fraction: float, seed: int) -> tuple[TextPairs, TextPairs]:
    """Hold out about ``valid_fraction`` of the pairs; all pairs of one source sentence stay on one side.

    Returns:
        Training pairs and validation pairs, each in the given order; malformed lines are counted with the former.

    Raises:
        DataError: fewer than two different sources, which leave one side empty.
    """
    rows_of: dict[str, list[int]] = {}
    for row, source in enumerate(pairs.sources):
        rows_of.setdefault(source, []).append(row)
    if len(rows_of) < 2:
        raise DataError("a validation split needs at least two different source sentences")
    groups = list(rows_of.values())
    held_out: list[int] = []
    for group in np.random.default_rng(seed).permutation(len(groups))[:-1]:
        held_out += groups[group]
        if len(held_out) >= valid_fraction * len(pairs):
            break
    chosen = set(held_out)

    def pick(is_valid: bool) -> TextPairs:
        rows = [row for row in range(len(pairs)) if (row in chosen) == is_valid]
        malformed = 0 if is_valid else pairs.malformed
        return TextPairs([pairs.sources[row] for row in rows], [pairs.targets[row] for row in rows], malformed)

    return pick(False), pick(True)


# --- ids --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs as ids, EOS at the end of both sides."""

    source_ids: tf.RaggedTensor  # int32 [N, (source tokens)]
    labels: tf.RaggedTensor  # int32 [N, (target tokens)]
    rows: NDArray[np.int64]  # [N]: which of the text pairs each is
    filtered: int
    truncated: int

    @property
    def source_lengths(self) -> NDArray[np.int64]:
        """[N], EOS included."""
        return self.source_ids.row_lengths().numpy()

    @property
    def target_lengths(self) -> NDArray[np.int64]:
        """[N], EOS included."""
        return self.labels.row_lengths().numpy()


def encode_pairs(
    pairs: TextPairs,
    tokenizer: SentencePieceTokenizer,
    limits: LimitsConfig,
    config: DataConfig,
    kind: str = "text",
    on_progress: OnProgress = silent,
) -> EncodedPairs:
    """Tokenise every pair; those longer than ``limits`` (EOS counted) are filtered or truncated, and counted.

    ``kind`` is what progress and errors call the pairs.

    Raises:
        DataError: every pair was filtered.
    """
    source_ids, target_ids = _tokenize(pairs, tokenizer, f"encoding the {kind} pairs", on_progress)
    most_source, most_target = limits.max_source_tokens - 1, limits.max_target_tokens - 1
    fits = ((source_ids.row_lengths() <= most_source) & (target_ids.row_lengths() <= most_target)).numpy()
    rows, overlong = np.arange(len(pairs)), int(np.count_nonzero(~fits))
    if config.overlong == "filter":
        rows = rows[fits]
        if not rows.size:
            raise DataError(
                f"every {kind} pair exceeds limits ({most_source} source, {most_target} target tokens and EOS)"
            )
        source_ids, target_ids = tf.gather(source_ids, rows), tf.gather(target_ids, rows)
    else:
        source_ids, target_ids = source_ids[:, :most_source], target_ids[:, :most_target]
    eos = tf.fill([len(rows), 1], EOS_ID)
    return EncodedPairs(
        source_ids=tf.concat([source_ids, eos], axis=1),
        labels=tf.concat([target_ids, eos], axis=1),
        rows=rows,
        filtered=overlong if config.overlong == "filter" else 0,
        truncated=overlong if config.overlong == "truncate" else 0,
    )


def _tokenize(
    pairs: TextPairs, tokenizer: SentencePieceTokenizer, stage: str, on_progress: OnProgress
) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Both sides, int32 [N, (tokens)]."""
    sources, targets = [], []
    for first in range(0, len(pairs), _PAIRS_ENCODED):
        on_progress(stage, first, len(pairs))
        chunk = slice(first, first + _PAIRS_ENCODED)
        sources.append(tokenizer.tokenize(tf.constant(pairs.sources[chunk])))
        targets.append(tokenizer.tokenize(tf.constant(pairs.targets[chunk])))
    return tf.concat(sources, axis=0), tf.concat(targets, axis=0)


# --- batches ----------------------------------------------------------------------------------------------------------


def plan_batches(pairs: EncodedPairs, batch_tokens: int, order: tuple[int, int] | None) -> list[NDArray[np.int64]]:
    """Which rows make which batch: every row once, drawn from one bucket of lengths, ``batch_tokens`` a side at most.

    A bucket spans lengths within a quarter of each other (all up to 8 are one): wide enough that the rows of a batch
    end at different positions and no update sees one length alone, narrow enough that little is padding.

    Args:
        pairs: what is batched.
        batch_tokens: most tokens of one batch, padding included, on the source side and on the target side each.
        order: (seed, epoch) draws the rows of each batch and the order of the batches anew for that epoch; ``None``
            keeps both sorted by length. The number of batches is the same either way.
    """
    lengths = np.maximum(pairs.source_lengths, pairs.target_lengths)
    generator = np.random.default_rng(order) if order is not None else None
    rows = np.argsort(lengths, kind="stable") if generator is None else generator.permutation(len(lengths))
    bucket_of_row = np.maximum(np.ceil(np.log(lengths[rows] / 8) / np.log(1.25)), 0)
    batches: list[NDArray[np.int64]] = []
    for bucket in np.unique(bucket_of_row):
        members = rows[bucket_of_row == bucket]
        size = max(1, batch_tokens // int(lengths[members].max()))
        batches += np.split(members, range(size, len(members), size))
    if generator is not None:
        batches = [batches[index] for index in generator.permutation(len(batches))]
    return batches


def make_dataset(pairs: EncodedPairs, batches: Sequence[NDArray[np.int64]]) -> tf.data.Dataset:
    """The planned batches, in order, as ``(ModelInputs, labels)``.

    Labels are int32 [B, T], ``ids + [EOS]`` padded with 0; ``target_ids`` are the same shifted right behind BOS.
    """
    rows = tf.RaggedTensor.from_row_lengths(np.concatenate(batches), [len(batch) for batch in batches])

    def materialize(chosen: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        source_ids, labels = tf.gather(pairs.source_ids, chosen), tf.gather(pairs.labels, chosen)
        start = tf.fill([tf.shape(chosen)[0], 1], BOS_ID)
        inputs = {
            "source_ids": source_ids.to_tensor(),  # [batch, source]
            "source_lengths": tf.cast(source_ids.row_lengths(), tf.int32),
            "target_ids": tf.concat([start, labels[:, :-1]], axis=1).to_tensor(),  # [batch, target]
        }
        return inputs, labels.to_tensor()

    return tf.data.Dataset.from_tensor_slices(rows).map(materialize).prefetch(2)
