"""Text pairs turned into ids, and batched with ``tf.data``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model_export.config import DataConfig, LimitsConfig
from model_export.text.pairs import DataError, TextPairs
from model_export.text.progress import OnProgress, silent
from model_export.text.tokenizers import BOS_ID, EOS_ID, SentencePieceTokenizer

_PAIRS_ENCODED = 10_000
"""As many are encoded at a time, so that there is progress to tell."""


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
