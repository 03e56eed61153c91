"""Pairs as ids, and that batches hold every row once and within budget."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from model_export.config import DataConfig, LimitsConfig, TokenizerConfig
from model_export.text import data
from model_export.text.data import EncodedPairs, encode_pairs, make_dataset, plan_batches
from model_export.text.pairs import DataError, TextPairs
from model_export.text.tokenizers import BOS_ID, EOS_ID, SentencePieceTokenizer, train_sentencepiece

# --- ids --------------------------------------------------------------------------------------------------------------

WORDS = ["red", "green", "blue", "a", "longer", "sentence", "of", "many", "words"]


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(train_sentencepiece([" ".join(WORDS)], 280, TokenizerConfig(model_type="bpe")))


PAIRS = TextPairs(["red", "a longer sentence of many words", "blue"], ["green", "a", "a longer sentence of many words"])


def test_both_sides_end_with_eos(tokenizer: SentencePieceTokenizer) -> None:
    encoded = encode_pairs(PAIRS, tokenizer, LimitsConfig(), DataConfig())

    for side, texts in ((encoded.source_ids, PAIRS.sources), (encoded.labels, PAIRS.targets)):
        assert side.to_list() == [[*row, EOS_ID] for row in tokenizer.tokenize(tf.constant(texts)).to_list()]
    assert (encoded.filtered, encoded.truncated) == (0, 0)


def test_chunks_are_told_and_change_nothing(tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode_pairs(PAIRS, tokenizer, LimitsConfig(), DataConfig())
    monkeypatch.setattr(data, "_PAIRS_ENCODED", 2)
    told: list[tuple[str, int, int]] = []

    chunked = encode_pairs(
        PAIRS, tokenizer, LimitsConfig(), DataConfig(), on_progress=lambda *stage: told.append(stage)
    )

    assert [(done, total) for _, done, total in told] == [(0, 3), (2, 3)]
    for side in ("source_ids", "labels"):
        assert getattr(chunked, side).to_list() == getattr(whole, side).to_list()
        assert getattr(chunked, side).dtype == getattr(whole, side).dtype


def test_overlong_pairs_are_filtered_and_counted(tokenizer: SentencePieceTokenizer) -> None:
    limits = LimitsConfig(max_source_tokens=8, max_target_tokens=8, default_max_new_tokens=8)
    encoded = encode_pairs(PAIRS, tokenizer, limits, DataConfig())

    assert encoded.rows.tolist() == [0]
    assert (encoded.filtered, encoded.truncated) == (2, 0)


def test_a_pair_exactly_at_the_limit_stays(tokenizer: SentencePieceTokenizer) -> None:
    longest = int(encode_pairs(PAIRS, tokenizer, LimitsConfig(), DataConfig()).source_lengths.max())
    for limit, filtered in ((longest, 0), (longest - 1, 1)):
        limits = LimitsConfig(max_source_tokens=limit)
        assert encode_pairs(PAIRS, tokenizer, limits, DataConfig()).filtered == filtered


def test_overlong_pairs_are_truncated_before_eos_and_counted(tokenizer: SentencePieceTokenizer) -> None:
    limits = LimitsConfig(max_source_tokens=8, max_target_tokens=6, default_max_new_tokens=6)
    whole = encode_pairs(PAIRS, tokenizer, LimitsConfig(), DataConfig())
    cut = encode_pairs(PAIRS, tokenizer, limits, DataConfig(overlong="truncate"))

    assert cut.source_ids[1].numpy().tolist() == [*whole.source_ids[1].numpy()[:7], EOS_ID]
    assert cut.labels[2].numpy().tolist() == [*whole.labels[2].numpy()[:5], EOS_ID]
    assert (cut.filtered, cut.truncated) == (0, 2)


def test_nothing_within_the_limits(tokenizer: SentencePieceTokenizer) -> None:
    limits = LimitsConfig(max_source_tokens=1)
    with pytest.raises(DataError, match="every validation pair exceeds limits"):
        encode_pairs(PAIRS, tokenizer, limits, DataConfig(), "validation")


# --- batches ----------------------------------------------------------------------------------------------------------


def random_pairs(count: int) -> EncodedPairs:
    """Each label row begins with the row's number, so that batches can be traced back."""
    generator = np.random.default_rng(3)

    def side(lengths: list[int]) -> tf.RaggedTensor:
        rows = [[10 + row, *generator.integers(4, 10, length), EOS_ID] for row, length in enumerate(lengths)]
        return tf.ragged.constant(rows, dtype=tf.int32)

    lengths = generator.integers(0, 18, [2, count]).tolist()
    return EncodedPairs(side(lengths[0]), side(lengths[1]), np.arange(count), 0, 0)


@pytest.mark.parametrize("order", [None, (1, 0), (1, 1)])
def test_every_row_once_and_every_batch_within_budget(order: tuple[int, int] | None) -> None:
    pairs = random_pairs(300)
    batches = plan_batches(pairs, 100, order)

    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    for batch in batches:
        assert len(batch) * pairs.source_lengths[batch].max() <= 100
        assert len(batch) * pairs.target_lengths[batch].max() <= 100


def test_rows_of_like_length_stay_together() -> None:
    pairs = random_pairs(300)
    lengths = np.maximum(pairs.source_lengths, pairs.target_lengths)

    for batch in plan_batches(pairs, 100, (1, 0)):
        assert lengths[batch].max() <= max(8, 1.25 * lengths[batch].min() + 1)


def test_rows_of_a_batch_end_at_different_positions() -> None:
    pairs = random_pairs(300)
    whole = [batch for batch in plan_batches(pairs, 100, (1, 0)) if len(batch) > 4]

    assert all(len(set(pairs.target_lengths[batch])) > 1 for batch in whole)


def test_an_order_depends_on_seed_and_epoch_alone() -> None:
    pairs = random_pairs(300)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in plan_batches(pairs, 100, (seed, epoch))]

    assert order(1, 4) == order(1, 4)
    assert order(1, 4) != order(1, 5)
    assert order(1, 4) != order(2, 4)
    assert len(order(1, 4)) == len(order(1, 5)) == len(plan_batches(pairs, 100, None))


def test_a_dataset_from_a_later_batch_goes_on_as_the_whole_one() -> None:
    pairs = random_pairs(60)
    batches = plan_batches(pairs, 100, (1, 0))

    whole = [labels.numpy().tolist() for _, labels in make_dataset(pairs, batches)]
    rest = [labels.numpy().tolist() for _, labels in make_dataset(pairs, batches[3:])]

    assert rest == whole[3:]
    assert sorted(row[0] - 10 for batch in whole for row in batch) == list(range(60))


def test_the_elements_of_a_batch() -> None:
    pairs = EncodedPairs(
        source_ids=tf.ragged.constant([[7, EOS_ID], [8, 9, EOS_ID]], dtype=tf.int32),
        labels=tf.ragged.constant([[4, 5, 6, EOS_ID], [7, EOS_ID]], dtype=tf.int32),
        rows=np.arange(2),
        filtered=0,
        truncated=0,
    )
    [(inputs, labels)] = list(make_dataset(pairs, [np.array([0, 1])]))

    assert {name: value.numpy().tolist() for name, value in inputs.items()} == {
        "source_ids": [[7, EOS_ID, 0], [8, 9, EOS_ID]],
        "source_lengths": [2, 3],
        "target_ids": [[BOS_ID, 4, 5, 6], [BOS_ID, 7, 0, 0]],
    }
    assert labels.numpy().tolist() == [[4, 5, 6, EOS_ID], [7, EOS_ID, 0, 0]]
    assert {value.dtype for value in (*inputs.values(), labels)} == {tf.int32}
