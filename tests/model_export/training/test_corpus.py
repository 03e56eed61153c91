"""Where training and validation pairs come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.text.pairs import DataError, TextPairs
from model_export.text.tokenizers import SentencePieceTokenizer, train_sentencepiece
from model_export.training.corpus import Corpus, load_corpora, pairs_sha256
from tests.support.tiny_training import pairs, tiny_config, write_pairs


def test_files_of_their_own(tmp_path: Path) -> None:
    rows = pairs(10)
    files = [write_pairs(tmp_path / "b.tsv", rows[:5]), write_pairs(tmp_path / "a.tsv", rows[5:8])]
    valid_file = write_pairs(tmp_path / "valid.tsv", rows[8:])

    train, valid, names = load_corpora(tiny_config(), files, [valid_file])

    assert train.sources == [source for source, _ in rows[:8]]
    assert valid.targets == [target for _, target in rows[8:]]
    assert names == (["b.tsv", "a.tsv"], ["valid.tsv"])


def test_a_file_on_both_sides_is_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path / "train.tsv", pairs(5))
    valid_file = write_pairs(tmp_path / "valid.tsv", pairs(2))

    with pytest.raises(DataError, match=r"valid\.tsv is among the training files too"):
        load_corpora(tiny_config(), [str(tmp_path / "*.tsv")], [valid_file])


def test_a_split_of_the_training_file(tmp_path: Path) -> None:
    file = write_pairs(tmp_path / "all.tsv", pairs(40))

    train, valid, names = load_corpora(tiny_config(), [file], None)

    assert (len(train), len(valid)) == (38, 2)  # data.valid_fraction is 0.05
    assert not set(train.sources) & set(valid.sources)
    assert names == (["all.tsv"], ["all.tsv"])
    other_seed = tiny_config(seed=2)
    assert load_corpora(other_seed, [file], None)[1] != valid


def test_the_digest_sees_every_text_and_the_border_between_the_sides() -> None:
    a, b = TextPairs(["a"], ["A"]), TextPairs(["b"], ["B"])
    both, none = TextPairs(["a", "b"], ["A", "B"]), TextPairs([], [])
    digests = [pairs_sha256(a, b), pairs_sha256(b, a), pairs_sha256(both, none), pairs_sha256(none, both)]

    assert len(set(digests)) == 4
    assert pairs_sha256(TextPairs(["a"], ["A"]), b) == digests[0]


def test_what_was_left_out_is_counted_and_told() -> None:
    config = tiny_config()
    limits = config.limits.model_copy(update={"max_source_tokens": 12})
    rows = pairs(10)
    texts = TextPairs([source for source, _ in rows], [target for _, target in rows], malformed=3)
    tokenizer = SentencePieceTokenizer(train_sentencepiece(texts.sources, 290, config.tokenizer))

    corpus = Corpus.encode(texts, ["a.tsv"], tokenizer, config.model_copy(update={"limits": limits}))

    lengths = tokenizer.tokenize(texts.sources).row_lengths().numpy() + 1
    kept = int((lengths <= 12).sum())
    assert 0 < kept < 10
    assert corpus.counts == {
        "files": ["a.tsv"],
        "pairs": kept,
        "malformed": 3,
        "filtered": 10 - kept,
        "truncated": 0,
    }
    assert str(corpus) == f"{kept} pairs (3 malformed, {10 - kept} filtered)"
