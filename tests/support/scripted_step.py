"""A ``DecoderStep`` whose logits are looked up, so that searches can be checked against answers worked out by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model_export.contract import OPTIONS
from model_export.decoding import DecodingOptions, Hypotheses, TokenIds
from model_export.decoding.step import Places

PAD, UNK, BOS, EOS = 0, 1, 2, 3
A, B, C = 4, 5, 6
TOKENS = TokenIds(start=BOS, eos=EOS, pad=PAD, suppressed=(PAD, UNK, BOS))


class ScriptedState(NamedTuple):
    history: tf.Tensor  # int32 [B, K]: a number that stands for everything read so far
    room: tf.Tensor  # int32 [B]: calls that there is room for
    is_taken: tf.Tensor  # bool [B, K]: places in which there is a beam
    index: tf.Tensor  # int32 [B, K]: which of these it is


class ScriptedStep:
    """The logits after a history are row ``history`` of ``table`` [M, V].

    A history is ``(31 * history + id + 1) mod M`` folded over the tokens read, begun with the first source id: two rows
    with unlike sources, or two beams with unlike pasts, see unlike logits.
    """

    def __init__(self, table: NDArray[np.float32]) -> None:
        self.table = tf.constant(table, tf.float32)
        self.calls = 0

    def start(self, source_ids: tf.Tensor, source_lengths: tf.Tensor, beam_size: int | tf.Tensor) -> ScriptedState:
        history = tf.repeat(source_ids[:, :1], beam_size, axis=1)  # [batch, beam]
        nowhere = tf.zeros_like(history)
        return ScriptedState(history, tf.zeros_like(source_ids[:, 0]), tf.cast(nowhere, tf.bool), nowhere)

    def prefill(self, prefix_ids: tf.Tensor, prefix_lengths: tf.Tensor, state: ScriptedState) -> ScriptedState:
        def read(position: tf.Tensor, history: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            folded = self._fold(history, tf.gather(prefix_ids, position, axis=1)[:, None])
            return position + 1, tf.where(position < prefix_lengths[:, None], folded, history)

        size = tf.shape(prefix_ids)[1]
        _, history = tf.while_loop(lambda position, _: position < size, read, (tf.constant(0), state.history))
        return state._replace(history=history)

    def __call__(self, ids: tf.Tensor, positions: tf.Tensor, state: ScriptedState) -> tuple[tf.Tensor, ScriptedState]:
        self.calls += 1
        tf.debugging.assert_positive(state.room, "the search did not ask for room")
        history = tf.where(state.is_taken, self._fold(state.history, tf.gather(ids, state.index)), state.history)
        logits = tf.gather(self.table, tf.boolean_mask(history, state.is_taken))
        return logits, state._replace(history=history, room=state.room - 1)

    def reorder(self, state: ScriptedState, parents: tf.Tensor) -> ScriptedState:
        return state._replace(history=tf.gather(state.history, parents, batch_dims=1))

    def select(self, state: ScriptedState, rows: tf.Tensor) -> ScriptedState:
        return ScriptedState(*(tf.gather(field, rows) for field in state))

    def grow(self, state: ScriptedState, capacity: tf.Tensor, places: Places | None) -> ScriptedState:
        room, shape = tf.fill(tf.shape(state.room), capacity), tf.shape(state.history)
        if places is None:
            index = tf.expand_dims(tf.range(shape[0]), 1)  # [batch, 1]
            return state._replace(room=room, is_taken=index >= 0, index=index)
        is_taken = tf.scatter_nd(places.taken[:, None], tf.ones_like(places.taken), [shape[0] * shape[1]]) > 0
        return state._replace(room=room, is_taken=tf.reshape(is_taken, shape), index=places.index)

    def _fold(self, history: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        return (history * 31 + ids + 1) % self.table.shape[0]

    def logits(self, source_id: int, sequence: tuple[int, ...]) -> NDArray[np.float64]:
        """float64 [V]: those after BOS and ``sequence``."""
        history = source_id
        for token in (BOS, *sequence):
            history = (history * 31 + token + 1) % self.table.shape[0]
        return self.table[history].numpy().astype(np.float64)

    def log_probs(self, source_id: int, sequence: tuple[int, ...]) -> list[float]:
        """Log-probability of each token of ``sequence`` after BOS, by the unmodified table."""
        result = []
        for position, token in enumerate(sequence):
            logits = self.logits(source_id, sequence[:position])
            result.append(float(logits[token] - np.log(np.exp(logits).sum())))
        return result


def markov_step(next_probabilities: dict[int, dict[int, float]], vocabulary_size: int = 7) -> ScriptedStep:
    """Logits that depend on the last token alone: ``{last: {next: probability}}``; what is not named is impossible."""
    table = np.full([vocabulary_size, vocabulary_size], -1e4, np.float32)
    for last, row in next_probabilities.items():
        for following, probability in row.items():
            table[last, following] = np.log(probability)
    step = ScriptedStep(table)
    step._fold = lambda history, ids: tf.broadcast_to(ids, tf.shape(history))  # type: ignore[method-assign]
    return step


def random_step(seed: int, vocabulary_size: int = 7, histories: int = 997, spread: float = 2.0) -> ScriptedStep:
    """Seeded logits for every history."""
    table = np.random.default_rng(seed).normal(scale=spread, size=[histories, vocabulary_size])
    return ScriptedStep(table.astype(np.float32))


def sources(batch: int) -> tuple[tf.Tensor, tf.Tensor]:
    """``source_ids`` [B, 1], each row its own, and ``source_lengths`` [B]."""
    return tf.range(10, 10 + batch)[:, None], tf.ones([batch], tf.int32)


def options(batch: int = 1, **changes: object) -> DecodingOptions:
    """Neutral options for ``batch`` rows; ``changes`` are a value for all rows or a list, one a row."""
    values = {"max_new_tokens": 6, **changes}
    prefix_ids = tf.constant(np.array(values.pop("prefix_ids", [[0]] * batch), np.int32))
    dtypes = {**{name: option.dtype for name, option in OPTIONS.items()}, "prefix_lengths": "int32"}
    rows = {name: tf.constant(np.broadcast_to(value, [batch]), dtypes[name]) for name, value in values.items()}
    return DecodingOptions.neutral(prefix_ids=prefix_ids, **rows)


def sequences(found: Hypotheses, row: int = 0) -> list[tuple[int, ...]]:
    """The hypotheses of a row, without padding and unused places."""
    lengths = found.lengths[row].numpy()
    return [tuple(found.ids[row, k, :n].numpy().tolist()) for k, n in enumerate(lengths) if n]


def all_sequences(
    max_new_tokens: int, min_new_tokens: int = 0, letters: tuple[int, ...] = (A, B, C)
) -> Iterator[tuple[int, ...]]:
    """Every answer there can be: letters closed by EOS, or cut at ``max_new_tokens`` letters."""
    for length in range(min_new_tokens, max_new_tokens):
        for sequence in itertools.product(letters, repeat=length):
            yield (*sequence, EOS)
    yield from itertools.product(letters, repeat=max_new_tokens)


def best_sequences(
    score: Callable[[tuple[int, ...]], float], sequences: Iterator[tuple[int, ...]], length_penalty: float, count: int
) -> list[tuple[int, ...]]:
    """The ``count`` best by score / length ** length_penalty: exhaustive search."""
    return sorted(sequences, key=lambda one: -score(one) / len(one) ** length_penalty)[:count]
