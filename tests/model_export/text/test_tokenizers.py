"""SentencePiece in the graph: normalisation, byte fallback, exact sizes."""

from __future__ import annotations

import unicodedata

import pytest
import sentencepiece
import tensorflow as tf

from model_export.config import TokenizerConfig
from model_export.text.tokenizers import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    UNK_ID,
    SentencePieceTokenizer,
    TokenizerError,
    train_sentencepiece,
)

TEXTS = [
    "안녕하세요, 만나서 반갑습니다.",
    "오늘 날씨가 참 좋네요.",
    "How are you today?",
    "The weather is nice.",
    "Ça va ?",
    "the more the merrier, the weather the other day, whether or not they are there",
    "오늘도 좋은 날씨네요. 참 반갑네요. 안녕히 계세요.",
]


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(train_sentencepiece(TEXTS, 324, TokenizerConfig(model_type=request.param)))


def ids(tokenizer: SentencePieceTokenizer, text: str) -> list[int]:
    return tokenizer.tokenize(tf.constant([text]))[0].numpy().tolist()


def round_trip(tokenizer: SentencePieceTokenizer, text: str) -> str:
    return tokenizer.detokenize(tokenizer.tokenize(tf.constant([text])))[0].numpy().decode()


def test_size_special_ids_and_byte_fallback(tokenizer: SentencePieceTokenizer) -> None:
    assert tokenizer.vocabulary_size == 324
    assert tokenizer.byte_fallback
    assert tokenizer.pieces(tf.constant([PAD_ID, UNK_ID, BOS_ID, EOS_ID])).numpy().tolist() == [
        b"<pad>",
        b"<unk>",
        b"<s>",
        b"</s>",
    ]


def test_no_framing_is_added(tokenizer: SentencePieceTokenizer) -> None:
    assert not {PAD_ID, UNK_ID, BOS_ID, EOS_ID} & set(ids(tokenizer, "How are you today?"))


@pytest.mark.parametrize("text", [TEXTS[0], "가각갂", "Ça où"])
def test_decomposed_text_has_the_ids_of_composed_text(tokenizer: SentencePieceTokenizer, text: str) -> None:
    decomposed = unicodedata.normalize("NFD", text)

    assert decomposed != text
    assert ids(tokenizer, decomposed) == ids(tokenizer, text)


@pytest.mark.parametrize("text", ["반갑습니다.", "日本語もОК", "🙂 👩\u200d🚀", "Ωmega", "뷁"])
def test_text_beyond_the_vocabulary_survives_as_bytes(tokenizer: SentencePieceTokenizer, text: str) -> None:
    assert UNK_ID not in ids(tokenizer, text)
    assert round_trip(tokenizer, text) == unicodedata.normalize("NFKC", text)


def test_width_variants_are_one_text(tokenizer: SentencePieceTokenizer) -> None:
    assert ids(tokenizer, "Ｈｏｗ ａｒｅ") == ids(tokenizer, "How are")
    assert ids(tokenizer, "ﾊﾝ") == ids(tokenizer, "ハン")


def test_bytes_that_are_no_text_become_replacement_characters(tokenizer: SentencePieceTokenizer) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    lone = [processor.piece_to_id("<0xEC>"), processor.piece_to_id("<0x95>")]

    sentence = tokenizer.detokenize(tf.RaggedTensor.from_row_lengths(lone, [2]))[0].numpy().decode()

    assert sentence == "\ufffd\ufffd"


def test_special_ids_spell_nothing(tokenizer: SentencePieceTokenizer) -> None:
    framed = [BOS_ID, *ids(tokenizer, "How are you"), EOS_ID, PAD_ID]

    assert tokenizer.detokenize(tf.RaggedTensor.from_row_lengths(framed, [len(framed)]))[0] == b"How are you"


def test_the_graph_agrees_with_the_library(tokenizer: SentencePieceTokenizer) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    texts = [*TEXTS, "", "  two   spaces ", "🙂", "unseen Wörter"]
    in_graph = tf.function(tokenizer.tokenize)(tf.constant(texts))

    assert in_graph.to_list() == [processor.encode(text) for text in texts]


def test_training_is_reproducible() -> None:
    config = TokenizerConfig()

    assert train_sentencepiece(TEXTS, 324, config) == train_sentencepiece(TEXTS, 324, config)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_a_vocabulary_that_the_text_cannot_fill_names_the_largest(model_type: str) -> None:
    config = TokenizerConfig(model_type=model_type)
    with pytest.raises(TokenizerError, match=r"vocabulary_size 5000 is too large .* at most (\d+) pieces") as caught:
        train_sentencepiece(TEXTS, 5000, config)
    largest = int(str(caught.value).split("at most ")[1].split()[0])

    assert SentencePieceTokenizer(train_sentencepiece(TEXTS, largest, config)).vocabulary_size == largest


def test_a_vocabulary_too_small_for_the_characters_names_the_smallest() -> None:
    with pytest.raises(TokenizerError, match=r"vocabulary_size 270 is too small: .* alone are (\d+)"):
        train_sentencepiece(TEXTS, 270, TokenizerConfig())


def test_no_text_at_all() -> None:
    with pytest.raises(TokenizerError, match="no text"):
        train_sentencepiece([], 300, TokenizerConfig())


def test_training_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    train_sentencepiece(TEXTS, 324, TokenizerConfig())

    assert capfd.readouterr() == ("", "")


def test_bytes_that_are_no_model() -> None:
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        SentencePieceTokenizer(b"no model")
