"""What every sequence-to-sequence model is to the rest of the house."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypedDict

import keras
import tensorflow as tf

if TYPE_CHECKING:  # the protocol is all that models know of searches
    from model_export.decoding.step import DecoderStep


class ModelInputs(TypedDict):
    """A batch for the teacher-forced pass. Ids at and past a source length are ignored."""

    source_ids: tf.Tensor  # int32 [B, S]
    source_lengths: tf.Tensor  # int32 [B]
    target_ids: tf.Tensor  # int32 [B, T]: the start token, then the tokens before each label


class Seq2SeqModel(keras.Model):
    """Encoder and decoder: trained on all target positions at once, decoded step by step."""

    @abstractmethod
    def call(self, inputs: ModelInputs, training: bool = False) -> tf.Tensor:
        """Logits of the next token at every target position, float32 [B, T, V]."""

    @abstractmethod
    def decoder_step(self) -> DecoderStep[Any]:
        """The same weights as the searches drive them."""
