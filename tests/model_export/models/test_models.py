"""What holds for every model: sizes, independence of padding and batch-mates, cached steps against the whole pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model_export.config import ModelConfig, RunConfig, load_config
from model_export.decoding import beam_search, greedy_search
from model_export.decoding.places import places_of
from model_export.models import Seq2SeqModel, build_model
from tests.support.random_models import CONFIGS, VOCABULARY, random_model
from tests.support.scripted_step import TOKENS, options


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request: pytest.FixtureRequest) -> Seq2SeqModel:
    return random_model(request.param)


SOURCE_LENGTHS = np.array([5, 1, 3, 4], np.int32)
SOURCE_IDS = np.random.default_rng(0).integers(4, VOCABULARY, [4, 5]).astype(np.int32)
TARGET_IDS = np.random.default_rng(1).integers(4, VOCABULARY, [4, 6]).astype(np.int32)


def whole_pass(model: Seq2SeqModel, source: Any, lengths: Any, target: Any) -> np.ndarray:
    inputs = {"source_ids": source, "source_lengths": lengths, "target_ids": target}
    return model({name: tf.constant(value) for name, value in inputs.items()}).numpy()


@pytest.mark.parametrize(
    ("name", "count"),
    [("rnn", 7_782_208), ("rnn-attention", 8_176_193), ("transformer", 37_625_664), ("transformer-base", 111_533_888)],
)
def test_shipped_configurations_have_their_parameter_counts(name: str, count: int) -> None:
    config = load_config(name)
    assert build_model(config.model, config.limits).count_params() == count


def test_variable_paths_are_unique_and_the_same_in_every_build(model: Seq2SeqModel) -> None:
    paths = [variable.path for variable in model.weights]
    assert len(set(paths)) == len(paths)
    config: ModelConfig = model.config
    again = build_model(config, RunConfig(model=config).limits)
    assert [variable.path for variable in again.weights] == paths


def test_every_weight_learns(model: Seq2SeqModel) -> None:
    inputs = {"source_ids": SOURCE_IDS, "source_lengths": SOURCE_LENGTHS, "target_ids": TARGET_IDS}
    with tf.GradientTape() as tape:
        logits = model({name: tf.constant(value) for name, value in inputs.items()}, training=True)
        loss = tf.reduce_sum(tf.nn.log_softmax(logits)[..., 5])
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, [v.value for v in model.trainable_variables]), strict=True
    ):
        assert gradient is not None, variable.path
        if not variable.path.endswith("attention/score_bias"):  # a softmax does not see what is added to all its inputs
            assert np.any(tf.convert_to_tensor(gradient)), variable.path


def test_dropout_acts_in_training_only(model: Seq2SeqModel) -> None:
    inputs = {"source_ids": SOURCE_IDS, "source_lengths": SOURCE_LENGTHS, "target_ids": TARGET_IDS}
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    assert np.array_equal(model(inputs), model(inputs))
    assert not np.allclose(model(inputs, training=True), model(inputs, training=True))


def test_padding_and_batch_mates_change_nothing(model: Seq2SeqModel) -> None:
    together = whole_pass(model, SOURCE_IDS, SOURCE_LENGTHS, TARGET_IDS)
    for row, length in enumerate(SOURCE_LENGTHS):
        alone = whole_pass(
            model, SOURCE_IDS[row : row + 1, :length], SOURCE_LENGTHS[row : row + 1], TARGET_IDS[row : row + 1]
        )
        np.testing.assert_allclose(together[row], alone[0], atol=1e-4)


def test_later_target_tokens_do_not_change_earlier_logits(model: Seq2SeqModel) -> None:
    other = TARGET_IDS.copy()
    other[:, 3:] = 4
    before = whole_pass(model, SOURCE_IDS, SOURCE_LENGTHS, TARGET_IDS)
    after = whole_pass(model, SOURCE_IDS, SOURCE_LENGTHS, other)
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-5)
    assert not np.allclose(before[:, 3:], after[:, 3:], atol=1e-2)


def test_a_packed_model_answers_alike_and_names_the_variables_that_it_reads(model: Seq2SeqModel) -> None:
    expected = whole_pass(model, SOURCE_IDS, SOURCE_LENGTHS, TARGET_IDS)
    stored = {weight.path: weight.numpy() for weight in model.weights}
    variables = model.pack()

    @tf.function(autograph=False)
    def packed_pass() -> tf.Tensor:
        inputs = {"source_ids": SOURCE_IDS, "source_lengths": SOURCE_LENGTHS, "target_ids": TARGET_IDS}
        return model({name: tf.constant(value) for name, value in inputs.items()})

    np.testing.assert_allclose(packed_pass(), expected, atol=1e-5)
    read = packed_pass.get_concrete_function().variables
    assert {id(variable) for variable in read} == {id(variable) for variable in variables}
    for weight in model.weights:
        np.testing.assert_array_equal(weight.numpy(), stored[weight.path])


@pytest.mark.parametrize(
    ("prefix_lengths", "beams"),
    [([0, 0, 0, 0], [2, 2, 2, 2]), ([2, 0, 3, 1], [2, 2, 2, 2]), ([2, 0, 3, 1], [1, 2, 1, 2])],
)
def test_cached_steps_give_the_logits_of_the_whole_pass(
    model: Seq2SeqModel, prefix_lengths: list[int], beams: list[int]
) -> None:
    """Every row with a prefix of its own; two beams that read different tokens and swap places after each step."""
    prefix = np.array(prefix_lengths, np.int32)
    generator = np.random.default_rng(2)
    tokens = generator.integers(4, VOCABULARY, [4, 2, 9]).astype(np.int32)
    tokens[:, :, 0] = TOKENS.start
    tokens[:, 1, :3] = tokens[:, 0, :3]  # what is read as a prefix is common to the beams
    expected = np.stack([whole_pass(model, SOURCE_IDS, SOURCE_LENGTHS, tokens[:, beam]) for beam in range(2)], axis=1)
    step, is_taken = model.decoder_step(), np.arange(2) < np.array(beams)[:, None]
    rows, places = np.nonzero(is_taken)[0], places_of(tf.constant(is_taken))
    state = step.start(tf.constant(SOURCE_IDS), tf.constant(SOURCE_LENGTHS), tf.constant(2))
    if prefix.any():
        state = step.prefill(tf.constant(tokens[:, 0, : prefix.max()]), tf.constant(prefix), state)
    state = step.grow(state, tf.constant(3), places)
    order = np.array([[0, 1]] * 4)
    parents = np.where(is_taken.all(axis=1, keepdims=True), [[1, 0]], [[0, 0]])
    for call in range(5):
        if call == 3:
            state = step.grow(state, tf.constant(8), places)
        read = rows, order[is_taken], (prefix + call)[rows]
        logits, state = step(tf.constant(tokens[read]), tf.constant(read[2], tf.int32), state)
        np.testing.assert_allclose(logits, expected[read], atol=2e-4)
        state = step.reorder(state, tf.constant(parents, tf.int32))
        order = np.take_along_axis(order, parents, axis=1)


def test_select_keeps_the_rows_asked_for(model: Seq2SeqModel) -> None:
    step = model.decoder_step()
    ids, room = tf.constant(TARGET_IDS[:, 0]), tf.constant(2)
    state = step.grow(step.start(tf.constant(SOURCE_IDS), tf.constant(SOURCE_LENGTHS), 1), room, None)
    _, state = step(ids, tf.zeros([4], tf.int32), state)
    all_rows, _ = step(ids, tf.ones([4], tf.int32), state)
    selected = step.grow(step.select(state, tf.constant([3, 1])), room, None)
    picked, _ = step(tf.gather(ids, [3, 1]), tf.ones([2], tf.int32), selected)
    np.testing.assert_allclose(picked, tf.gather(all_rows, [3, 1]), atol=1e-5)


def test_greedy_search_is_the_argmax_of_the_whole_pass(model: Seq2SeqModel) -> None:
    found = greedy_search(
        model.decoder_step(), tf.constant(SOURCE_IDS), tf.constant(SOURCE_LENGTHS), options(4, max_new_tokens=7), TOKENS
    )
    for row, length in enumerate(found.lengths[:, 0].numpy()):
        answer = found.ids[row, 0, :length].numpy()
        target = np.concatenate([[TOKENS.start], answer[:-1]])[None].astype(np.int32)
        logits = whole_pass(model, SOURCE_IDS[row : row + 1], SOURCE_LENGTHS[row : row + 1], target)[0]
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        np.testing.assert_allclose(found.token_log_probs[row, 0, :length], log_probs[range(length), answer], atol=1e-4)
        logits[:, list(TOKENS.suppressed)] = -np.inf
        np.testing.assert_array_equal(logits.argmax(-1), answer)


@pytest.mark.parametrize("name", ["lstm-attention", "transformer"])
def test_a_batch_of_mixed_options_equals_each_row_alone(name: str) -> None:
    model = random_model(name)
    mixed = {
        "num_hypotheses": [1, 3, 2, 3],
        "max_new_tokens": [20, 1, 11, 7],
        "min_new_tokens": [0, 0, 4, 7],
        "length_penalty": [1.0, 0.0, 2.0, 0.5],
        "prefix_lengths": [0, 2, 1, 0],
    }

    @tf.function(reduce_retracing=True, autograph=False)
    def search(source_ids: tf.Tensor, source_lengths: tf.Tensor, asked: Any) -> Any:
        return beam_search(model.decoder_step(), source_ids, source_lengths, 3, asked, TOKENS)

    found = search(
        tf.constant(SOURCE_IDS), tf.constant(SOURCE_LENGTHS), options(4, prefix_ids=TARGET_IDS[:, :2], **mixed)
    )
    for row, length in enumerate(SOURCE_LENGTHS):
        own = {key: values[row] for key, values in mixed.items()}
        alone = search(
            tf.constant(SOURCE_IDS[row : row + 1, :length]),
            tf.constant(SOURCE_LENGTHS[row : row + 1]),
            options(1, prefix_ids=TARGET_IDS[row : row + 1, : max(1, own["prefix_lengths"])], **own),
        )
        kept, longest = own["num_hypotheses"], alone.ids.shape[2]
        np.testing.assert_array_equal(found.ids[row, :kept, :longest], alone.ids[0])
        np.testing.assert_allclose(found.scores[row, :kept], alone.scores[0], atol=1e-4)
        np.testing.assert_allclose(found.token_log_probs[row, :kept, :longest], alone.token_log_probs[0], atol=1e-4)
