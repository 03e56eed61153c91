"""SentencePiece (Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226): trained, and run in the graph."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

import sentencepiece
import tensorflow as tf
import tensorflow_text

from model_export.config import TokenizerConfig, UserError

PAD_ID, UNK_ID, BOS_ID, EOS_ID = 0, 1, 2, 3
"""Special ids of every tokenizer that is trained here."""

_ERRORS_ONLY = 2  # SentencePiece's minloglevel


class TokenizerError(UserError):
    """A tokenizer that cannot be trained from this text, or bytes that are no tokenizer."""


def train_sentencepiece(texts: Iterable[str], vocabulary_size: int, config: TokenizerConfig) -> bytes:
    """Train a tokenizer of exactly ``vocabulary_size`` pieces, special ids and 256 byte pieces included.

    Text is NFKC-normalised, so that composed and decomposed input give the same ids; what the pieces cannot spell
    falls back to UTF-8 bytes, so that any text survives the round trip up to that normalisation.

    Returns:
        The serialised SentencePiece model.

    Raises:
        TokenizerError: no text, or text that cannot support the size; the message says which size would be right.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=vocabulary_size,
            model_type=config.model_type,
            character_coverage=config.character_coverage,
            byte_fallback=True,
            normalization_rule_name="nfkc",
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            num_threads=1,  # the pieces of more threads depend on their timing
            minloglevel=_ERRORS_ONLY,
        )
    except RuntimeError as error:
        raise TokenizerError(_explain(str(error), vocabulary_size)) from error
    return model.getvalue()


def _explain(message: str, vocabulary_size: int) -> str:
    """SentencePiece's failed assertion in words."""
    if match := re.search(r"Please set it to a value <= (\d+)", message):
        return (
            f"model.vocabulary_size {vocabulary_size} is too large for this text: at most {match[1]} pieces are in it"
        )
    if match := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return (
            f"model.vocabulary_size {vocabulary_size} is too small: the special, byte and character pieces of this "
            f"text alone are {match[1]}; raise it, or lower tokenizer.character_coverage"
        )
    if "sentences_.empty()" in message:
        return "there is no text to train a tokenizer from"
    return f"SentencePiece cannot train from this text: {message}"


class SentencePieceTokenizer(tf.Module):
    """A SentencePiece model as TensorFlow operations; usable inside ``tf.function`` and saved with a SavedModel.

    Seed before making one: ``tf.random.set_seed`` clears TensorFlow's eager kernels, and the loaded model with them.
    """

    def __init__(self, model: bytes) -> None:
        """Load serialised ``model``.

        Raises:
            TokenizerError: the bytes are no SentencePiece model.
        """
        super().__init__(name="tokenizer")
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise TokenizerError(f"not a SentencePiece model: {error}") from error
        self.model = model
        self.vocabulary_size: int = processor.vocab_size()
        self.byte_fallback = any(processor.IsByte(index) for index in range(self.vocabulary_size))
        self._operations = tensorflow_text.SentencepieceTokenizer(model=model, out_type=tf.int32)

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """UTF-8 string [B] -> int32 [B, (tokens)], without start or end token."""
        return self._operations.tokenize(texts)

    def pieces(self, ids: tf.Tensor) -> tf.Tensor:
        """int32 of any shape -> the pieces' spelling, a string of that shape (``▁`` stands for a space)."""
        return self._operations.id_to_string(ids)

    def detokenize(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """int32 [B, (tokens)] -> UTF-8 string [B]. Special ids spell nothing; bytes that are no UTF-8 give U+FFFD."""
        return self._operations.detokenize(ids)
