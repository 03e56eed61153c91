"""What only the Transformer's cached step can get wrong: its table of positions ends, its caches share buffers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from model_export.config import LimitsConfig, TransformerConfig
from model_export.decoding import DecodingOptions, TokenIds, greedy_search
from model_export.models import build_model

LIMIT = 12
CONFIG = TransformerConfig(
    architecture="transformer",
    vocabulary_size=20,
    hidden_size=8,
    num_heads=2,
    feed_forward_size=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
PREFIX = 9  # the row is done after 3 tokens, in the middle of a chunk of the loop


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_a_row_that_reached_the_last_position_waits_for_its_batch_mates(positions: str) -> None:
    """Row 0 begins ``PREFIX`` positions late and is done, at the end of the table, while row 1 goes on."""
    config = CONFIG.model_copy(update={"positions": positions})
    limits = LimitsConfig(
        max_source_tokens=LIMIT, max_target_tokens=LIMIT, max_beam_size=1, default_max_new_tokens=LIMIT
    )
    keras.utils.set_random_seed(1)
    step = build_model(config, limits).decoder_step()
    tokens = TokenIds(start=2, eos=3, pad=0, suppressed=(0, 2))
    budgets = [LIMIT - PREFIX, LIMIT]
    options = DecodingOptions.neutral(
        max_new_tokens=tf.constant(budgets),
        min_new_tokens=tf.constant(budgets),  # no row ends early
        prefix_ids=tf.constant([[5] * PREFIX, [0] * PREFIX]),
        prefix_lengths=tf.constant([PREFIX, 0]),
    )
    source_ids, source_lengths = tf.constant([[4, 5, 3], [6, 3, 0]]), tf.constant([3, 2])

    together = greedy_search(step, source_ids, source_lengths, options, tokens)

    assert together.lengths.numpy().tolist() == [[LIMIT - PREFIX], [LIMIT]]
    for row, budget in enumerate(budgets):
        one = slice(row, row + 1)
        alone = greedy_search(
            step, source_ids[one], source_lengths[one], DecodingOptions(*(field[one] for field in options)), tokens
        )
        assert alone.ids[0, 0, :budget].numpy().tolist() == together.ids[row, 0, :budget].numpy().tolist()


def test_caches_stay_apart_in_a_graph_without_a_loop() -> None:
    """A graph that starts all caches from one empty tensor makes one buffer of them."""
    keras.utils.set_random_seed(1)
    model = build_model(CONFIG.model_copy(update={"num_decoder_layers": 2}), LimitsConfig())
    step, target_ids = model.decoder_step(), tf.constant([[2, 7, 11]])

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)]
    )
    def cached(source_ids: tf.Tensor, source_lengths: tf.Tensor) -> tf.Tensor:
        state = step.grow(step.start(source_ids, source_lengths, 1), tf.constant(3), None)
        logits = []
        for position in range(3):
            found, state = step(target_ids[:, position], tf.constant([position]), state)
            logits.append(found)
        return tf.stack(logits, axis=1)

    source = {"source_ids": tf.constant([[4, 5, 3]]), "source_lengths": tf.constant([3])}
    whole = model({**source, "target_ids": target_ids})
    np.testing.assert_allclose(cached(**source), whole, atol=1e-5)
