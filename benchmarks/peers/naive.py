"""Decoding as one writes it first: for every token the whole model, over the source and all tokens so far."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from model_export.models import Seq2SeqModel
from model_export.text.tokenizers import BOS_ID, EOS_ID


def naive_search(model: Seq2SeqModel) -> Callable[[tf.Tensor, int, int], tf.Tensor]:
    """Greedy or beam search by ``model(...)[:, -1]``, as one ``tf.function``; it never says EOS.

    Returns:
        A function of source ids int32 [B, S], beam size K and number of tokens T, which returns the best hypotheses,
        int32 [B, T].
    """

    @tf.function(autograph=False, reduce_retracing=True)
    def search(source_ids: tf.Tensor, beam_size: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
        batch, size = tf.unstack(tf.shape(source_ids))
        sources = tf.repeat(source_ids, beam_size, axis=0)  # [batch * beam, source]
        lengths = tf.fill([batch * beam_size], size)

        def step(ids: tf.Tensor, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            """Prefixes [B*K, t] and their log-probabilities [B, K], one token longer."""
            logits = model({"source_ids": sources, "source_lengths": lengths, "target_ids": ids})
            log_probs = tf.nn.log_softmax(logits[:, -1])  # [batch * beam, vocabulary]
            vocabulary = tf.shape(log_probs)[1]
            log_probs -= 1e9 * tf.one_hot(EOS_ID, vocabulary)
            totals = scores[:, :, None] + tf.reshape(log_probs, [batch, beam_size, vocabulary])
            scores, best = tf.math.top_k(tf.reshape(totals, [batch, beam_size * vocabulary]), beam_size)
            rows = tf.range(batch)[:, None] * beam_size + best // vocabulary  # [batch, beam]
            ids = tf.gather(ids, tf.reshape(rows, [-1]))
            return tf.concat([ids, tf.reshape(best % vocabulary, [-1, 1])], axis=1), scores

        start = tf.fill([batch * beam_size, 1], BOS_ID)
        only_first = tf.where(tf.range(beam_size) == 0, 0.0, -1e9)  # before the first token all beams are the same
        ids, _ = tf.while_loop(
            lambda ids, _: tf.shape(ids)[1] <= tokens,
            step,
            (start, tf.tile(only_first[None], [batch, 1])),
            shape_invariants=(tf.TensorShape([None, None]), tf.TensorShape([None, None])),
            parallel_iterations=1,
        )
        return tf.reshape(ids, [batch, beam_size, tokens + 1])[:, 0, 1:]

    return lambda source_ids, beam_size, tokens: search(source_ids, tf.constant(beam_size), tf.constant(tokens))
