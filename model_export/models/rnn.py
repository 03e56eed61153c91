"""Recurrent encoder-decoder, attention optional: the teacher-forced pass. ``rnn_step`` decodes with the same layers."""

from __future__ import annotations

from typing import cast

import keras
import tensorflow as tf

from model_export.config import RnnConfig
from model_export.models.additive_attention import AdditiveAttention, Memory
from model_export.models.base import ModelInputs, Seq2SeqModel, TeacherForced
from model_export.models.layers import Linear, TokenEmbedding
from model_export.models.recurrent import BidirectionalLayer, CellState, decoder_cell, mirrored_places, scan
from model_export.models.rnn_step import RnnStep


class Rnn(Seq2SeqModel):
    """Bidirectional encoder, unidirectional decoder, as ``RnnConfig`` says."""

    def __init__(self, config: RnnConfig, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.config = config
        cell, units, layers = config.cell, config.hidden_size, range(config.num_layers)
        with_attention = config.attention == "additive"
        first_size = config.embedding_size + (units if with_attention else 0)
        with keras.name_scope(self.name):
            self.embedding = TokenEmbedding(config.vocabulary_size, config.embedding_size, name="embedding")
            self.dropout = keras.layers.Dropout(config.dropout)
            self.encoder_layers = [
                BidirectionalLayer(cell, units if i else config.embedding_size, units, name=f"encoder_{i}")
                for i in layers
            ]
            self.decoder_cells = [
                decoder_cell(cell, units if i else first_size, units, name=f"decoder_{i}") for i in layers
            ]
            self.attention = AdditiveAttention(units, name="attention") if with_attention else None
            tied = self.embedding if config.tie_output else None
            self.output_projection = Linear(units, config.vocabulary_size, tied, is_final=True, name="output")
        self.built = True

    @property
    def has_attention(self) -> bool:
        """See ``Seq2SeqModel.has_attention``."""
        return self.attention is not None

    def encode(
        self, source_ids: tf.Tensor, source_lengths: tf.Tensor, training: bool = False
    ) -> tuple[tuple[CellState, ...], Memory | tuple[()]]:
        """int32 [B, S], [B] -> the decoder's first states [B, units] of each layer, and what attention reads
        (nothing without attention)."""
        x = self.embedding(tf.transpose(source_ids))  # [source, batch, embedding]
        mirror = mirrored_places(source_lengths, tf.shape(source_ids)[1])
        states = []
        for layer in self.encoder_layers:
            x, state = layer(self.dropout(x, training=training), source_lengths, mirror)
            states.append(state)
        if self.attention is None:
            return tuple(states), ()
        return tuple(states), self.attention.memory(tf.transpose(x, [1, 0, 2]), source_lengths)

    def decode_position(
        self,
        embedded: tf.Tensor,
        states: tuple[CellState, ...],
        memory: Memory | tuple[()],
        masks: list[tf.Tensor] | None = None,
    ) -> tuple[tuple[CellState, ...], tf.Tensor]:
        """Read one token: ``embedded`` [B*K, embedding] and states [B*K, units] of each layer -> new states, and the
        attention paid meanwhile [B, K, S] (S = 0 without attention).

        The hidden state of the last layer is the output. ``masks`` [B*K, units] drop the inputs of all layers but the
        first, the same at every position (Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287).
        """
        x, paid = embedded, embedded[:, tf.newaxis, :0]
        if self.attention is not None:
            context, paid = self.attention(states[-1][0], cast(Memory, memory))  # the same configuration made both
            x = tf.concat([x, context], axis=-1)
        new = []
        for index, (cell, state) in enumerate(zip(self.decoder_cells, states, strict=True)):
            if masks is not None and index:
                x = x * masks[index - 1]
            new.append(cell.step(x, state))
            x = new[-1][0]
        return tuple(new), paid

    def read(
        self,
        ids: tf.Tensor,
        states: tuple[CellState, ...],
        memory: Memory | tuple[()],
        lengths: tf.Tensor | None = None,
        training: bool = False,
    ) -> tuple[TeacherForced, tuple[CellState, ...]]:
        """Read ``ids`` int32 [B, T] from states [B, units]: what is made of them, states after ``lengths``."""
        embedded = self.dropout(self.embedding(tf.transpose(ids)), training=training)  # [time, batch, embedding]
        units, masks = self.config.hidden_size, None
        if training:
            ones = tf.ones([tf.shape(ids)[0], units])
            masks = [self.dropout(ones, training=True) for _ in self.decoder_cells[1:]]

        def step(x: tf.Tensor, states: tuple[CellState, ...]) -> tuple[tf.Tensor, tuple[CellState, ...]]:
            states, paid = self.decode_position(x, states, memory, masks)
            return tf.concat([states[-1][0], paid[:, 0]], axis=-1), states  # [batch, units + source]

        outputs, states = scan(step, embedded, states, lengths)
        outputs = tf.transpose(outputs, [1, 0, 2])  # [batch, time, units + source]
        hidden = tf.ensure_shape(outputs[..., :units], [None, None, units])
        return TeacherForced(hidden, outputs[..., units:] if self.has_attention else None), states

    def teacher_forced(self, inputs: ModelInputs, training: bool = False) -> TeacherForced:
        """See ``Seq2SeqModel.teacher_forced``."""
        states, memory = self.encode(inputs["source_ids"], inputs["source_lengths"], training)
        read, _ = self.read(inputs["target_ids"], states, memory, training=training)
        return read._replace(hidden=self.dropout(read.hidden, training=training))

    def decoder_step(self) -> RnnStep:
        """The decoder over the same layers, one token at a time."""
        return RnnStep(self)
