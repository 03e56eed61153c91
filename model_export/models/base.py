"""What every sequence-to-sequence model is to the rest of the house."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import keras
import tensorflow as tf

from model_export.contract import Dtype
from model_export.models.layers import LayerNorm, Linear, TokenEmbedding
from model_export.models.precision import FLOAT32, Precision
from model_export.models.range_observer import RangeObserver

if TYPE_CHECKING:  # the protocol is all that models know of searches
    from model_export.decoding.step import DecoderStep


class ModelInputs(TypedDict):
    """A batch for the teacher-forced pass. Ids at and past a source length are ignored."""

    source_ids: tf.Tensor  # int32 [B, S]
    source_lengths: tf.Tensor  # int32 [B]
    target_ids: tf.Tensor  # int32 [B, T]: the start token, then the tokens before each label


class TeacherForced(NamedTuple):
    """What the decoder makes of all target positions at once, each blind to later tokens."""

    hidden: tf.Tensor  # float32 [B, T, width]: what ``output_projection`` makes the logits of the next token from
    attention: tf.Tensor | None  # float32 [B, T, S], paid to each source token for it; None without attention


class Seq2SeqModel(keras.Model):
    """Encoder and decoder: trained on all target positions at once, decoded step by step."""

    output_projection: Linear

    @property
    @abstractmethod
    def has_attention(self) -> bool:
        """Whether it tells what it attends to."""

    @abstractmethod
    def teacher_forced(self, inputs: ModelInputs, training: bool = False) -> TeacherForced:
        """Read the targets given, all positions in one pass."""

    def call(self, inputs: ModelInputs, training: bool = False) -> tf.Tensor:
        """Logits of the next token at every target position, float32 [B, T, V]."""
        return self.output_projection(self.teacher_forced(inputs, training).hidden)

    def pack(self, precision: Precision = FLOAT32) -> list[tf.Variable]:
        """Ready all layers for decoding; returns all variables that the model then reads.

        The weights stay what they are, to be counted and stored. After further training, pack again.
        """
        kept = self._prepare(precision.dtype)
        return kept + [variable for linear in self.linears() for variable in linear.pack(precision)]

    def observe(self) -> dict[str, RangeObserver]:
        """Compute in float32 what int8 will, and note what each linear layer reads, by ``Linear.key``."""
        self._prepare("int8")
        return {linear.key: linear.observe() for linear in self.linears()}

    def _prepare(self, dtype: Dtype) -> list[tf.Variable]:
        """Pack all but the linear layers; returns the variables that it reads then."""
        layers = self._flatten_layers()
        packed = [layer for layer in layers if isinstance(layer, Linear | LayerNorm | TokenEmbedding)]
        replaced = {weight.path for layer in packed for weight in layer.weights}
        tables = []
        for layer in packed:
            if isinstance(layer, LayerNorm):
                layer.pack(dtype)
            elif isinstance(layer, TokenEmbedding):
                tables.append(layer)
        kept = [weight.value for weight in self.weights if weight.path not in replaced]
        return kept + [table.pack() for table in tables]  # which ask the norms

    def linears(self) -> list[Linear]:
        """All linear layers."""
        return [layer for layer in self._flatten_layers() if isinstance(layer, Linear)]

    @abstractmethod
    def decoder_step(self) -> DecoderStep[Any]:
        """The same weights as the searches drive them."""
