"""Recurrent encoder-decoder, attention optional: the teacher-forced pass. ``rnn_step`` decodes with the same layers."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, cast

import keras
import tensorflow as tf

from model_export.config import RnnConfig
from model_export.models.base import ModelInputs, Seq2SeqModel, TeacherForced
from model_export.models.layers import Linear, TokenEmbedding, padding_bias
from model_export.models.recurrent import AdditiveAttention, CellState, RecurrentCell, scan
from model_export.models.rnn_step import RnnStep


class Memory(NamedTuple):
    """The encoder's outputs as attention reads them."""

    values: tf.Tensor  # float32 [B, S, units]
    keys: tf.Tensor  # float32 [B, S, units]
    bias: tf.Tensor  # float32 [B, 1, S]


class BidirectionalLayer(keras.layers.Layer):
    """Two cells of half the width, one for each direction (Schuster and Paliwal 1997)."""

    def __init__(self, config: RnnConfig, in_size: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        with keras.name_scope(self.name):
            self.forward = RecurrentCell(config.cell, in_size, config.hidden_size // 2, name="forward")
            self.backward = RecurrentCell(config.cell, in_size, config.hidden_size // 2, name="backward")
        self.built = True

    def call(self, x: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, CellState]:
        """[B, S, in] -> outputs [B, S, units], final states of both directions side by side [B, units]."""
        batch = tf.shape(x)[0]
        read = [
            scan(partial(_output_first, cell), x, cell.zero_state(batch), lengths, reverse=cell is self.backward)
            for cell in (self.forward, self.backward)
        ]
        (forward, forward_state), (backward, backward_state) = read
        state = [tf.concat(pair, axis=-1) for pair in zip(forward_state, backward_state, strict=True)]
        return tf.concat([forward, backward], axis=-1), tuple(state)


class Rnn(Seq2SeqModel):
    """Bidirectional encoder, unidirectional decoder, as ``RnnConfig`` says."""

    def __init__(self, config: RnnConfig, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.config = config
        units, layers = config.hidden_size, range(config.num_layers)
        with_attention = config.attention == "additive"
        first_size = config.embedding_size + (units if with_attention else 0)
        with keras.name_scope(self.name):
            self.embedding = TokenEmbedding(config.vocabulary_size, config.embedding_size, name="embedding")
            self.dropout = keras.layers.Dropout(config.dropout)
            self.encoder_layers = [
                BidirectionalLayer(config, units if i else config.embedding_size, name=f"encoder_{i}") for i in layers
            ]
            self.decoder_cells = [
                RecurrentCell(config.cell, units if i else first_size, units, name=f"decoder_{i}") for i in layers
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
        x = self.embedding(source_ids)
        states = []
        for layer in self.encoder_layers:
            x, state = layer(self.dropout(x, training=training), source_lengths)
            states.append(state)
        if self.attention is None:
            return tuple(states), ()
        bias = padding_bias(source_lengths, tf.shape(source_ids)[1])[:, None, :]
        return tuple(states), Memory(x, self.attention.key_projection(x), bias)

    def decode_position(
        self,
        embedded: tf.Tensor,
        states: tuple[CellState, ...],
        memory: Memory | tuple[()],
        masks: list[tf.Tensor] | None = None,
    ) -> tuple[tuple[CellState, ...], tf.Tensor]:
        """Read one token: ``embedded`` [B, K, embedding] and states [B, K, units] of each layer -> new states, and the
        attention paid meanwhile [B, K, S] (S = 0 without attention).

        The hidden state of the last layer is the output. ``masks`` [B, 1, units] drop the inputs of all layers but
        the first, the same at every position (Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287).
        """
        x, paid = embedded, embedded[..., :0]
        if self.attention is not None:
            memory = cast(Memory, memory)  # the same configuration made it
            context, paid = self.attention(states[-1][0], memory.values, memory.keys, memory.bias)
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
        """Read ``ids`` int32 [B, T] from states [B, 1, units]: what is made of them, states after ``lengths``."""
        embedded = self.dropout(self.embedding(ids), training=training)
        masks = None
        if training:
            ones = tf.ones([tf.shape(ids)[0], 1, self.config.hidden_size])
            masks = [self.dropout(ones, training=True) for _ in self.decoder_cells[1:]]

        def step(x: tf.Tensor, states: tuple[CellState, ...]) -> tuple[tf.Tensor, tuple[CellState, ...]]:
            states, paid = self.decode_position(x[:, None, :], states, memory, masks)
            return tf.concat([states[-1][0], paid], axis=-1)[:, 0], states  # [batch, units + source]

        outputs, states = scan(step, embedded, states, lengths)
        hidden = tf.ensure_shape(outputs[..., : self.config.hidden_size], [None, None, self.config.hidden_size])
        return TeacherForced(hidden, outputs[..., self.config.hidden_size :] if self.has_attention else None), states

    def teacher_forced(self, inputs: ModelInputs, training: bool = False) -> TeacherForced:
        """See ``Seq2SeqModel.teacher_forced``."""
        states, memory = self.encode(inputs["source_ids"], inputs["source_lengths"], training)
        states = tf.nest.map_structure(lambda state: state[:, None, :], states)
        read, _ = self.read(inputs["target_ids"], states, memory, training=training)
        return read._replace(hidden=self.dropout(read.hidden, training=training))

    def decoder_step(self) -> RnnStep:
        """The decoder over the same layers, one token at a time."""
        return RnnStep(self)


def _output_first(cell: RecurrentCell, x: tf.Tensor, state: CellState) -> tuple[tf.Tensor, CellState]:
    new = cell.step(x, state)
    return new[0], new
