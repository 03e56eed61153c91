"""Cross entropy with label smoothing. Padding is masked by the caller's weights."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from model_export.text.tokenizers import PAD_ID


class TokenLosses(NamedTuple):
    """One value per target position; ``weights`` is 1 where a token stands and 0 on padding."""

    smoothed: tf.Tensor  # float32 [B, T]: what is minimised
    plain: tf.Tensor  # float32 [B, T]: -log p(label), in nats; what is reported
    correct: tf.Tensor  # float32 [B, T]: 1 where the most probable token is the label
    weights: tf.Tensor  # float32 [B, T]


def token_losses(logits: tf.Tensor, labels: tf.Tensor, label_smoothing: float) -> TokenLosses:
    """Losses of float32 ``logits`` [B, T, V] against int32 ``labels`` [B, T], of which 0 is padding.

    ``smoothed = -sum_v q(v) log p(v)`` with ``q = (1 - e) * one_hot(label) + e / V`` (Szegedy et al. 2016, section 7).
    """
    vocabulary_size = logits.shape[-1]
    uniform = label_smoothing / vocabulary_size
    targets = tf.one_hot(labels, vocabulary_size, on_value=1.0 - label_smoothing + uniform, off_value=uniform)
    smoothed = tf.nn.softmax_cross_entropy_with_logits(targets, logits)  # [batch, target]
    fixed = tf.stop_gradient(logits)
    of_label = tf.gather(fixed, labels, batch_dims=2)
    # log p(v) = logit(v) - logsumexp, hence smoothed - plain = e * (logit(label) - mean logit).
    plain = tf.stop_gradient(smoothed) - label_smoothing * (of_label - tf.reduce_mean(fixed, axis=-1))
    correct = tf.argmax(fixed, axis=-1, output_type=labels.dtype) == labels
    return TokenLosses(smoothed, plain, tf.cast(correct, tf.float32), tf.cast(labels != PAD_ID, tf.float32))


def masked_mean(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Mean of ``values`` where ``weights`` is 1; both of any one shape."""
    return tf.reduce_sum(values * weights) / tf.reduce_sum(weights)
