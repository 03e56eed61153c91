"""What a search is asked for: one value per row, plus the token ids with a meaning."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from model_export.contract import OPTIONS


class DecodingOptions(NamedTuple):
    """Options of a batch of ``B`` rows; each row is decoded as if alone. ``docs/decoding.md`` defines them."""

    num_hypotheses: tf.Tensor  # int32 [B]: hypotheses wanted, 1..beam size; with do_sample, samples wanted
    max_new_tokens: tf.Tensor  # int32 [B]: stop after so many tokens, EOS included; at least 1
    min_new_tokens: tf.Tensor  # int32 [B]: tokens before EOS may come; 0: at once
    length_penalty: tf.Tensor  # float32 [B]: ranking is log_prob / length ** length_penalty; 0: by log_prob alone
    repetition_penalty: tf.Tensor  # float32 [B]: logits of tokens seen are divided by it, or multiplied; 1: as they are
    no_repeat_ngram_size: tf.Tensor  # int32 [B]: no n-gram of this size comes twice; 0..8, 0: any may
    disable_unk: tf.Tensor  # bool [B]: the unknown token never comes
    do_sample: tf.Tensor  # bool [B]: draw instead of choosing the best; greedy search alone
    temperature: tf.Tensor  # float32 [B]: logits are divided by it before a draw
    top_k: tf.Tensor  # int32 [B]: draw among so many of the likeliest tokens; 0: among all
    top_p: tf.Tensor  # float32 [B]: draw among the fewest of the likeliest tokens with this probability; 1: among all
    seed: tf.Tensor  # int64 [B]: draws depend on it, the sample's number and the position alone
    prefix_ids: tf.Tensor  # int32 [B, P]: the target begins with these
    prefix_lengths: tf.Tensor  # int32 [B]: how many of them count; 0: no forced prefix

    @classmethod
    def neutral(cls, max_new_tokens: tf.Tensor, **others: tf.Tensor) -> DecodingOptions:
        """Rows that ask for nothing but ``max_new_tokens`` int32 [B] and ``others``."""
        rows = tf.shape(max_new_tokens)[0]
        values = {
            name: tf.fill([rows], tf.constant(option.neutral, option.dtype))
            for name, option in OPTIONS.items()
            if name in cls._fields
        }
        prefix = {"prefix_ids": tf.zeros([rows, 1], tf.int32), "prefix_lengths": tf.zeros([rows], tf.int32)}
        return cls(**{**values, **prefix, "max_new_tokens": max_new_tokens, **others})


class RareOptions(NamedTuple):
    """What most calls ask nothing of, with all that it takes to act on it."""

    repetition_penalty: tf.Tensor  # float32 [B]
    no_repeat_ngram_size: tf.Tensor  # int32 [B]
    disable_unk: tf.Tensor  # bool [B]
    do_sample: tf.Tensor  # bool [B]
    temperature: tf.Tensor  # float32 [B]
    top_k: tf.Tensor  # int32 [B]
    top_p: tf.Tensor  # float32 [B]
    seed: tf.Tensor  # int64 [B]
    sample_numbers: tf.Tensor  # int32 [B]: which sample of its text the row is
    prefix_lengths: tf.Tensor  # int32 [B]
    seen_prefix: tf.Tensor  # int32 [B, P]: the prefix right-aligned, as ``penalties`` counts tokens seen

    def pack(self) -> tf.Tensor:
        """All in one tensor, int64 [B, 10 + P]: every tensor that a loop knows costs its steps a microsecond."""
        *columns, prefix = (_as_int64(field) for field in self)
        return tf.concat([tf.stack(columns, axis=1), prefix], axis=1)

    @classmethod
    def unpack(cls, packed: tf.Tensor) -> RareOptions:
        """The inverse of ``pack``."""
        names = cls._fields[:-1]
        columns = tf.unstack(packed[:, : len(names)], num=len(names), axis=1)
        fields = {name: _from_int64(column, _dtype(name)) for name, column in zip(names, columns, strict=True)}
        return cls(**fields, seen_prefix=tf.cast(packed[:, len(names) :], tf.int32))

    @staticmethod
    def asks(packed: tf.Tensor) -> tf.Tensor:
        """bool [B]: rows that ask for a penalty, a mask or a draw; the other options say how, and nothing without."""
        names = ("repetition_penalty", "no_repeat_ngram_size", "disable_unk", "do_sample")
        assert names == RareOptions._fields[: len(names)]
        neutral = [_as_int64(tf.constant(OPTIONS[name].neutral, OPTIONS[name].dtype)) for name in names]
        return tf.reduce_any(packed[:, : len(names)] != tf.stack(neutral), axis=1)


class RowContext(NamedTuple):
    """What is known of each row before its first new token, and does not change while it is decoded."""

    max_new_tokens: tf.Tensor  # int32 [B]
    min_new_tokens: tf.Tensor  # int32 [B]
    length_penalty: tf.Tensor  # float32 [B]
    rare: tf.Tensor  # int64 [B, 10 + P]: RareOptions, packed


def asks_for_penalties(options: DecodingOptions) -> tf.Tensor:
    """bool scalar: does any row ask for what changes logits, or masks them."""
    return (
        tf.reduce_any(options.repetition_penalty != 1.0)
        | tf.reduce_any(options.no_repeat_ngram_size > 0)
        | tf.reduce_any(options.disable_unk)
    )


class TokenIds(NamedTuple):
    """Ids of one vocabulary that a search must know."""

    start: int  # read by the decoder before the first token
    eos: int
    pad: int  # fills outputs past their length
    suppressed: tuple[int, ...]  # never generated: pad, bos, and unk where bytes stand for unknown characters
    unk: int | None = None  # what disable_unk forbids; None: nothing

    @property
    def not_continuing(self) -> tuple[int, ...]:
        """Tokens with which no hypothesis goes on."""
        return (self.eos, *self.suppressed)


def _dtype(name: str) -> str:
    return OPTIONS[name].dtype if name in OPTIONS else "int32"


def _as_int64(field: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.bitcast(field, tf.int32) if field.dtype == tf.float32 else field, tf.int64)


def _from_int64(values: tf.Tensor, dtype: str) -> tf.Tensor:
    return tf.bitcast(tf.cast(values, tf.int32), tf.float32) if dtype == "float32" else tf.cast(values, dtype)
