"""Every option at once: each row as if alone, in any order, and in a graph as without one."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model_export.config import RnnConfig, TransformerConfig
from model_export.contract import OPTIONS
from model_export.decoding import DecodingOptions, Hypotheses, TokenIds, beam_search, greedy_search
from model_export.decoding.options import RareOptions, asks_for_penalties
from tests.support.scripted_step import TOKENS, options, random_step, sources
from tests.support.tiny_models import RNN, TRANSFORMER, VOCABULARY_SIZE, tiny_model

ROWS = 10
TINY_TOKENS = TokenIds(start=2, eos=3, pad=0, suppressed=(0, 2), unk=1)
PREFIX_LENGTHS = [0, 2, 1, 0, 3, 0, 4, 0, 1, 0]
PENALTIES: dict[str, object] = {
    "max_new_tokens": [20, 7, 15, 12, 9, 20, 1, 16, 20, 11],
    "min_new_tokens": [0, 3, 15, 0, 2, 0, 1, 8, 0, 0],
    "length_penalty": [1.0, 0.0, 2.0, 0.5, 1.0, -0.5, 1.0, 1.0, 1.5, 1.0],
    "repetition_penalty": [1.0, 1.5, 1.0, 0.7, 3.0, 1.2, 1.0, 100.0, 1.0, 1.0],
    "no_repeat_ngram_size": [0, 1, 2, 3, 0, 8, 4, 0, 2, 0],
    "disable_unk": [False, True, False, True, False, False, True, False, True, False],
}
SAMPLING: dict[str, object] = {
    "do_sample": [False, True, True, False, True, True, True, True, False, True],
    "temperature": [1.0, 2.0, 0.5, 3.0, 1.0, 1.7, 1e-9, 1.0, 1.0, 100.0],
    "top_k": [0, 0, 5, 3, 0, 300, 0, 1, 0, 0],
    "top_p": [1.0, 0.9, 1.0, 0.5, 0.05, 0.99, 1.0, 1.0, 1.0, 1.0],
    "seed": [0, -5, 7, 7, 2**62, 1, 2, 3, 4, 5],
    "num_hypotheses": [1, 3, 1, 1, 2, 1, 1, 4, 1, 6],
}
BEAMS: dict[str, object] = {"num_hypotheses": [1, 3, 1, 1, 2, 3, 1, 2, 1, 3]}


@pytest.mark.parametrize("name", ["repetition_penalty", "no_repeat_ngram_size", "disable_unk", "do_sample"])
def test_rows_that_ask_are_those_that_ask_for_something(name: str) -> None:
    value = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "disable_unk": True, "do_sample": True}[name]
    asked = options(3, **{name: [OPTIONS[name].neutral, value, OPTIONS[name].neutral]})
    own = {field: getattr(asked, field) for field in RareOptions._fields if field in DecodingOptions._fields}
    seen = {"sample_numbers": tf.zeros([3], tf.int32), "seen_prefix": tf.zeros([3, 2], tf.int32)}
    assert RareOptions.asks(RareOptions(**own, **seen).pack()).numpy().tolist() == [False, True, False]
    assert bool(asks_for_penalties(asked) | tf.reduce_any(asked.do_sample))


def searching(step: object, beam_size: int, tokens: TokenIds) -> tf.types.experimental.PolymorphicFunction:
    """A graph for any batch."""
    each = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)
    asked = tf.nest.map_structure(lambda one: tf.TensorSpec([None] * one.shape.rank, one.dtype), options(1))

    @tf.function(input_signature=[*each, asked], autograph=False)
    def search(source_ids: tf.Tensor, source_lengths: tf.Tensor, asked: DecodingOptions) -> Hypotheses:
        if beam_size == 1:
            return greedy_search(step, source_ids, source_lengths, asked, tokens)
        return beam_search(step, source_ids, source_lengths, beam_size, asked, tokens)

    return search


def mixed(beam_size: int, letters: tuple[int, int]) -> DecodingOptions:
    """Every row with options of its own."""
    prefix_ids = np.random.default_rng(1).integers(*letters, [ROWS, 4])
    others = SAMPLING if beam_size == 1 else BEAMS
    return options(ROWS, prefix_ids=prefix_ids, prefix_lengths=PREFIX_LENGTHS, **PENALTIES, **others)


def assert_same_row(found: Hypotheses, row: int, expected: Hypotheses, other: int) -> None:
    lengths = expected.lengths[other].numpy()
    assert lengths[0] >= 1
    for place, length in enumerate(lengths):
        if place >= found.lengths.shape[1]:
            assert length == 0
            continue
        assert found.lengths[row, place] == length
        np.testing.assert_array_equal(found.ids[row, place, :length], expected.ids[other, place, :length])
        assert found.finish_reasons[row, place] == expected.finish_reasons[other, place]
        if length:
            np.testing.assert_allclose(found.scores[row, place], expected.scores[other, place], atol=1e-4)
            one, same = found.normalized_scores[row, place], expected.normalized_scores[other, place]
            np.testing.assert_allclose(one, same, atol=1e-3, rtol=1e-4)


@lru_cache(maxsize=2)
def tiny_step(config: TransformerConfig | RnnConfig) -> object:
    return tiny_model(config).model.decoder_step()


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("config", [TRANSFORMER, RNN], ids=["transformer", "rnn"])
def test_rows_of_unlike_options_are_each_decoded_as_if_alone(
    config: TransformerConfig | RnnConfig, beam_size: int
) -> None:
    search = searching(tiny_step(config), beam_size, TINY_TOKENS)
    generator = np.random.default_rng(2)
    lengths = generator.integers(2, 12, [ROWS])
    source = tf.constant(generator.integers(260, VOCABULARY_SIZE, [ROWS, 12]), tf.int32), tf.constant(lengths, tf.int32)
    asked = mixed(beam_size, (260, VOCABULARY_SIZE))

    together = search(*source, asked)

    order = generator.permutation(ROWS)
    permuted = search(*(tf.gather(field, order) for field in source), *[DecodingOptions(*_rows(asked, order))])
    for place, row in enumerate(order):
        assert_same_row(permuted, place, together, row)
    for row in range(ROWS):
        one = [row]
        alone = search(*(tf.gather(field, one) for field in source), DecodingOptions(*_rows(asked, one)))
        assert_same_row(together, row, alone, 0)


@pytest.mark.parametrize("config", [TRANSFORMER, RNN], ids=["transformer", "rnn"])
def test_samples_and_greedy_rows_beside_beams_are_decoded_as_if_alone(config: TransformerConfig | RnnConfig) -> None:
    step, generator = tiny_step(config), np.random.default_rng(3)
    source = tf.constant(generator.integers(260, VOCABULARY_SIZE, [ROWS, 9]), tf.int32), tf.fill([ROWS], 9)
    beam_sizes = tf.constant([3, 1, 1, 1, 1, 1, 1, 1, 5, 1])
    wanted = {**SAMPLING, "num_hypotheses": [3, 3, 1, 1, 2, 1, 1, 4, 2, 6]}
    prefix = {"prefix_ids": generator.integers(260, VOCABULARY_SIZE, [ROWS, 4]), "prefix_lengths": PREFIX_LENGTHS}
    asked = options(ROWS, **prefix, **PENALTIES, **wanted)

    searches = {size: searching(step, size, TINY_TOKENS) for size in set(beam_sizes.numpy().tolist())}

    together = tf.function(beam_search, autograph=False)(step, *source, beam_sizes, asked, TINY_TOKENS)

    assert together.ids.shape[1] == 6, "as many as the most samples"
    for row, beam_size in enumerate(beam_sizes.numpy().tolist()):
        one = *(tf.gather(field, [row]) for field in source), DecodingOptions(*_rows(asked, [row]))
        alone = searches[beam_size](*one)
        assert_same_row(together, row, alone, 0)
        assert (together.lengths[row, int(wanted["num_hypotheses"][row]) :] == 0).numpy().all()


def _rows(asked: DecodingOptions, rows: object) -> list[tf.Tensor]:
    return [tf.gather(field, rows) for field in asked]


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_saved_model_in_a_session_says_what_eager_execution_says(beam_size: int, tmp_path: Path) -> None:
    step = random_step(5, vocabulary_size=20)
    asked = mixed(beam_size, (4, 20))
    if beam_size == 1:
        eager = greedy_search(step, *sources(ROWS), asked, TOKENS)
    else:
        eager = beam_search(step, *sources(ROWS), beam_size, asked, TOKENS)
    search = searching(step, beam_size, TOKENS)
    names = DecodingOptions._fields

    def signature(ids: tf.Tensor, lengths: tf.Tensor, **fields: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(search(ids, lengths, DecodingOptions(**fields))._asdict())

    specs = {name: tf.TensorSpec([None] * one.shape.rank, one.dtype) for name, one in asked._asdict().items()}
    source_specs = tf.TensorSpec([None, None], tf.int32, "ids"), tf.TensorSpec([None], tf.int32, "lengths")
    concrete = tf.function(signature, autograph=False).get_concrete_function(*source_specs, **specs)
    module = tf.Module()
    module.search = search
    tf.saved_model.save(module, str(tmp_path), signatures={"search": concrete})

    values = {
        name: field.numpy() for name, field in zip(("ids", "lengths", *names), (*sources(ROWS), *asked), strict=True)
    }
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(tmp_path)).signature_def["search"]
        found = session.run(
            {name: output.name for name, output in loaded.outputs.items()},
            {loaded.inputs[name].name: values[name] for name in values},
        )
    for name, one in eager._asdict().items():
        np.testing.assert_allclose(found[name], one, atol=1e-4)


def test_rare_options_come_out_of_their_packing_as_they_went_in() -> None:
    own = {name: getattr(mixed(1, (4, 20)), name) for name in RareOptions._fields if name in DecodingOptions._fields}
    prefix = tf.constant(np.random.default_rng(0).integers(0, 2**31 - 1, [ROWS, 3]), tf.int32)
    packed = RareOptions(**own, sample_numbers=tf.range(ROWS), seen_prefix=prefix)
    for one, other in zip(packed, RareOptions.unpack(packed.pack()), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
