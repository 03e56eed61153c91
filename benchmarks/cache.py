"""What the key/value cache is worth: the ``transformer`` configuration against re-running the prefix at every step.

All run the same search loop in one graph each, encode once, and decode exactly as many tokens. Without a cache,
``model(prefix)[:, -1]`` computes the logits of every position; the variant that is spared this is shown as well:

    python -m benchmarks.cache [--batch 8] [--tokens 32] [--source 20] [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.interleaved import measure, report
from model_export.config import load_config
from model_export.decoding import DecoderStep, DecodingOptions, Hypotheses, TokenIds, greedy_search
from model_export.decoding.step import Places
from model_export.models import build_model
from model_export.models.transformer import Transformer

TOKENS = TokenIds(start=2, eos=3, pad=0, suppressed=(0, 1, 2))


class PrefixState(NamedTuple):
    """Everything read so far, and what the encoder said."""

    ids: tf.Tensor  # int32 [B, T]
    memory: tf.Tensor  # float32 [B, S, width]
    memory_bias: tf.Tensor  # float32 [B, 1, 1, S]


class UncachedStep:
    """A ``DecoderStep`` (for greedy search without a prefix) that runs the decoder over all tokens read so far."""

    def __init__(self, model: Transformer, last_logits_only: bool) -> None:
        self._model = model
        self._projected = slice(-1, None) if last_logits_only else slice(None)

    def start(self, source_ids: tf.Tensor, source_lengths: tf.Tensor, beam_size: int | tf.Tensor) -> PrefixState:
        memory, bias = self._model.encode(source_ids, source_lengths)
        return PrefixState(tf.zeros([tf.shape(source_ids)[0], 0], tf.int32), memory, bias)

    def prefill(self, prefix_ids: tf.Tensor, prefix_lengths: tf.Tensor, state: PrefixState) -> PrefixState:
        return state

    def __call__(self, ids: tf.Tensor, positions: tf.Tensor, state: PrefixState) -> tuple[tf.Tensor, PrefixState]:
        time = positions[0]
        here = tf.range(tf.shape(state.ids)[1]) == time
        read = tf.where(here, tf.expand_dims(ids, 1), state.ids)
        hidden = self._model.decode(read[:, : time + 1], state.memory, state.memory_bias).hidden
        logits = self._model.output_projection(hidden[:, self._projected])  # [batch, time or 1, vocabulary]
        return logits[:, -1], state._replace(ids=read)

    def reorder(self, state: PrefixState, parents: tf.Tensor) -> PrefixState:
        return state

    def select(self, state: PrefixState, rows: tf.Tensor) -> PrefixState:
        return PrefixState(*(tf.gather(field, rows) for field in state))

    def grow(self, state: PrefixState, capacity: tf.Tensor, places: Places | None) -> PrefixState:
        return state._replace(ids=tf.pad(state.ids, [[0, 0], [0, capacity - tf.shape(state.ids)[1]]]))


def searcher(step: DecoderStep[NamedTuple], tokens: int) -> Callable[[tf.Tensor], Hypotheses]:
    """Greedy search as one graph: exactly ``tokens`` new tokens for source ids int32 [B, S]."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)], autograph=False)
    def search(source_ids: tf.Tensor) -> Hypotheses:
        batch, size = tf.unstack(tf.shape(source_ids))
        asked = tf.fill([batch], tokens)
        options = DecodingOptions.neutral(max_new_tokens=asked, min_new_tokens=asked)
        return greedy_search(step, source_ids, tf.fill([batch], size), options, TOKENS)

    return search


def main() -> None:
    """Measure and print; exits 1 when the two contenders disagree about a token."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--source", type=int, default=20, help="source tokens")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="cores")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    keras.utils.set_random_seed(1)
    config = load_config("transformer")
    model = build_model(config.model, config.limits)
    assert isinstance(model, Transformer)
    model.pack()
    source = tf.constant(np.random.default_rng(0).integers(4, 8000, [arguments.batch, arguments.source]), tf.int32)
    steps = {
        "without cache": UncachedStep(model, last_logits_only=False),
        "without cache, last logits only": UncachedStep(model, last_logits_only=True),
        "with cache": model.decoder_step(),
    }
    searches = {name: searcher(step, arguments.tokens) for name, step in steps.items()}
    expected, *others = [search(source).ids for search in searches.values()]
    if not all(np.array_equal(expected, other) for other in others):
        raise SystemExit("the contenders do not find the same tokens")
    title = f"transformer, batch {arguments.batch}, source {arguments.source}, {arguments.tokens} tokens, greedy"
    timings = measure({name: partial(search, source) for name, search in searches.items()}, arguments.rounds)
    report(title, timings, baseline="without cache", json_file=arguments.json)


if __name__ == "__main__":
    main()
