"""What a search is asked for: one value per row, plus the token ids with a meaning."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class DecodingOptions(NamedTuple):
    """Options of a batch of ``B`` rows; each row is decoded as if alone."""

    num_hypotheses: tf.Tensor  # int32 [B]: hypotheses wanted, 1..beam size
    max_new_tokens: tf.Tensor  # int32 [B]: stop after so many tokens, EOS included; at least 1
    min_new_tokens: tf.Tensor  # int32 [B]: tokens before EOS may come; 0: at once
    length_penalty: tf.Tensor  # float32 [B]: ranking is log_prob / length ** length_penalty; 0: by log_prob alone
    prefix_ids: tf.Tensor  # int32 [B, P]: the target begins with these
    prefix_lengths: tf.Tensor  # int32 [B]: how many of them count; 0: no forced prefix


class TokenIds(NamedTuple):
    """Ids of one vocabulary that a search must know."""

    start: int  # read by the decoder before the first token
    eos: int
    pad: int  # fills outputs past their length
    suppressed: tuple[int, ...]  # never generated: pad, bos, and unk where bytes stand for unknown characters
