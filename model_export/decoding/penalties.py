"""What logits must not win, as functions on logits. The scores that are reported never change by them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from model_export.decoding.options import TokenIds


def continuation_bias(tokens: TokenIds, vocabulary_size: int) -> tf.Tensor:
    """float32 [V], added to logits when a hypothesis goes on: minus infinity for EOS and every suppressed token."""
    bias = np.zeros([vocabulary_size], np.float32)
    bias[[tokens.eos, *tokens.suppressed]] = -np.inf
    return tf.constant(bias)


def end_is_allowed(time: tf.Tensor, min_new_tokens: tf.Tensor) -> tf.Tensor:
    """bool [B]: may EOS be token number ``time`` (counted from 0) of a row that wants ``min_new_tokens`` before it."""
    return time >= min_new_tokens
