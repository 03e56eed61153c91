"""Encoder-decoder Transformer: the teacher-forced pass. ``transformer_step`` decodes with the same layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from model_export.config import LimitsConfig, TransformerConfig
from model_export.contract import Dtype
from model_export.models.attention import CrossAttention, SelfAttention
from model_export.models.base import ModelInputs, Seq2SeqModel, TeacherForced
from model_export.models.layers import (
    MASKED,
    LayerNorm,
    Linear,
    StreamNorm,
    TokenEmbedding,
    padding_bias,
    sinusoidal_positions,
)
from model_export.models.transformer_step import TransformerStep

Inner = Callable[..., tf.Tensor]
"""A sublayer: takes what it reads [B, T, width], and as ``residual`` what it adds to its answer, if anything."""


class Sublayer(keras.layers.Layer):
    """Residual connection, dropout and norm around one sublayer, pre- or post-norm.

    Dropout acts on the sublayer's output (and on the embeddings) alone, as in the paper, section 5.4.
    """

    def __init__(self, config: TransformerConfig, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.is_pre_norm = config.norm == "pre"
        with keras.name_scope(self.name):
            norm = StreamNorm if self.is_pre_norm else LayerNorm
            self.norm = norm(config.hidden_size, name="norm")
            self.dropout = keras.layers.Dropout(config.dropout)
        self.built = True

    def surround(self, reader: Linear, writer: Linear) -> None:
        """Let the linear layers know that the sublayer begins and ends with them."""
        if isinstance(self.norm, StreamNorm):
            reader.reads_stream(self.norm)
            writer.writes_stream(self.norm)

    def call(self, x: tf.Tensor, *, inner: Inner, training: bool = False) -> tf.Tensor:
        """``x`` [B, T, width] -> [B, T, width]."""
        read = self.norm(x) if self.is_pre_norm else x
        # What adds nothing to its answer can be dropped out; what does need not be added to by another operation.
        y = x + self.dropout(inner(read, residual=None), training=True) if training else inner(read, residual=x)
        return y if self.is_pre_norm else self.norm(y)


class FeedForward(keras.layers.Layer):
    """Two linear layers with an activation between them, as a sublayer."""

    def __init__(self, config: TransformerConfig, **kwargs: object) -> None:
        super().__init__(**kwargs)
        with keras.name_scope(self.name):
            self.expand = Linear(
                config.hidden_size, config.feed_forward_size, is_relu=config.activation == "relu", name="expand"
            )
            self.shrink = Linear(config.feed_forward_size, config.hidden_size, name="shrink")
            self.expand.read_by(self.shrink)
            self.sublayer = Sublayer(config, name="sublayer")
        self.sublayer.surround(self.expand, self.shrink)
        self.activation = {"relu": lambda x: x, "gelu": tf.nn.gelu}[config.activation]  # ReLU is part of ``expand``
        self.built = True

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, T, width] -> [B, T, width]."""
        return self.sublayer(x, inner=self._inner, training=training)

    def _inner(self, x: tf.Tensor, residual: tf.Tensor | None) -> tf.Tensor:
        return self.shrink(self.activation(self.expand(x)), residual)


class EncoderLayer(keras.layers.Layer):
    """Self-attention over the whole source, then feed-forward."""

    def __init__(self, config: TransformerConfig, **kwargs: object) -> None:
        super().__init__(**kwargs)
        sizes = (config.hidden_size, config.num_heads)
        with keras.name_scope(self.name):
            self.self_attention = SelfAttention(*sizes, name="self_attention")
            self.self_attention_sublayer = Sublayer(config, name="self_attention_sublayer")
            self.feed_forward = FeedForward(config, name="feed_forward")
        attention = self.self_attention
        self.self_attention_sublayer.surround(attention.qkv_projection, attention.output_projection)
        self.built = True

    def call(self, x: tf.Tensor, bias: tf.Tensor, training: bool = False) -> tf.Tensor:
        """``x`` [B, S, width], ``bias`` [B, 1, 1, S] -> [B, S, width]."""

        x = self.self_attention_sublayer(x, inner=partial(self.self_attention.__call__, bias=bias), training=training)
        return self.feed_forward(x, training=training)


class DecoderLayer(keras.layers.Layer):
    """Causal self-attention, attention over the source, feed-forward."""

    def __init__(self, config: TransformerConfig, **kwargs: object) -> None:
        super().__init__(**kwargs)
        sizes = (config.hidden_size, config.num_heads)
        with keras.name_scope(self.name):
            self.self_attention = SelfAttention(*sizes, name="self_attention")
            self.self_attention_sublayer = Sublayer(config, name="self_attention_sublayer")
            self.cross_attention = CrossAttention(*sizes, name="cross_attention")
            self.cross_attention_sublayer = Sublayer(config, name="cross_attention_sublayer")
            self.feed_forward = FeedForward(config, name="feed_forward")
        over_self, over_memory = self.self_attention, self.cross_attention
        self.self_attention_sublayer.surround(over_self.qkv_projection, over_self.output_projection)
        self.cross_attention_sublayer.surround(over_memory.query_projection, over_memory.output_projection)
        self.built = True

    def call(self, x: tf.Tensor, *, over_self: Inner, over_memory: Inner, training: bool = False) -> tf.Tensor:
        """``x`` [B, T, width] -> [B, T, width].

        Where keys and values come from is the caller's business: the teacher-forced pass computes them all, a decode
        step reads a cache.
        """
        x = self.self_attention_sublayer(x, inner=over_self, training=training)
        x = self.cross_attention_sublayer(x, inner=over_memory, training=training)
        return self.feed_forward(x, training=training)


class Transformer(Seq2SeqModel):
    """Vaswani et al. 2017 with the options of ``TransformerConfig``."""

    def __init__(self, config: TransformerConfig, limits: LimitsConfig, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.config = config
        width = config.hidden_size
        with keras.name_scope(self.name):
            self.embedding = TokenEmbedding(config.vocabulary_size, width, scale=width**0.5, name="embedding")
            self.embedding_dropout = keras.layers.Dropout(config.dropout)
            self.encoder_layers = [EncoderLayer(config, name=f"encoder_{i}") for i in range(config.num_encoder_layers)]
            self.decoder_layers = [DecoderLayer(config, name=f"decoder_{i}") for i in range(config.num_decoder_layers)]
            tied = self.embedding if config.tie_output else None
            self.output_projection = Linear(width, config.vocabulary_size, tied, is_final=True, name="output")
            self.encoder_norm = self.decoder_norm = None
            if config.norm == "pre":
                self.encoder_norm = StreamNorm(width, name="encoder_norm")
                self.decoder_norm = StreamNorm(width, name="decoder_norm")
                self.embedding.begins_stream(self.decoder_norm)
                self.output_projection.reads_stream(self.decoder_norm)
                for layer in self.decoder_layers:
                    layer.cross_attention.key_value_projection.reads_stream(self.encoder_norm)
        self.source_positions = self._positions(limits.max_source_tokens, "source_positions")
        self.target_positions = self._positions(limits.max_target_tokens, "target_positions")
        self._packed_positions: tuple[tf.Tensor, tf.Tensor] | None = None
        self.built = True

    def _positions(self, count: int, name: str) -> tf.Tensor | keras.Variable:
        """[count, width]: weights when learned, a constant otherwise."""
        width = self.config.hidden_size
        if self.config.positions == "sinusoidal":
            return tf.constant(sinusoidal_positions(count, width))
        initializer = keras.initializers.RandomNormal(stddev=width**-0.5)
        return self.add_weight(shape=(count, width), initializer=initializer, name=name)

    @property
    def _position_tables(self) -> tuple[tf.Tensor | keras.Variable, ...]:
        """Of source and target, [positions, width]."""
        return self._packed_positions or (self.source_positions, self.target_positions)

    def _prepare(self, dtype: Dtype) -> list[tf.Variable]:
        variables = super()._prepare(dtype)
        norm, tables = self.decoder_norm, (self.source_positions, self.target_positions)
        if norm is None:
            return variables
        source, target = (tf.constant(norm.written(np.array(table), is_first=True)) for table in tables)
        self._packed_positions = source, target
        replaced = [table.value for table in tables if isinstance(table, keras.Variable)]
        return [variable for variable in variables if all(variable is not other for other in replaced)]

    def embed_target(self, ids: tf.Tensor, positions: tf.Tensor, training: bool = False) -> tf.Tensor:
        """int32 [B, T] at ``positions`` (broadcast to [B, T]) -> [B, T, width]."""
        x = self.embedding(ids) + tf.gather(tf.convert_to_tensor(self._position_tables[1]), positions)
        return self.embedding_dropout(x, training=training)

    def decoded(self, x: tf.Tensor) -> tf.Tensor:
        """What ``output_projection`` reads, given what the last layer answers, [..., width]."""
        return x if self.decoder_norm is None else self.decoder_norm(x)

    def encode(self, source_ids: tf.Tensor, source_lengths: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, ...]:
        """int32 [B, S], [B] -> memory [B, S, width] and its bias [B, 1, 1, S]."""
        size = tf.shape(source_ids)[1]
        bias = padding_bias(source_lengths, size)[:, None, None, :]  # [batch, 1, 1, source]
        x = self.embedding(source_ids) + tf.convert_to_tensor(self._position_tables[0])[:size]
        x = self.embedding_dropout(x, training=training)  # [batch, source, width]
        for layer in self.encoder_layers:
            x = layer(x, bias, training=training)
        return x if self.encoder_norm is None else self.encoder_norm(x), bias

    @property
    def has_attention(self) -> bool:
        """See ``Seq2SeqModel.has_attention``."""
        return True

    def decode(
        self, target_ids: tf.Tensor, memory: tf.Tensor, memory_bias: tf.Tensor, training: bool = False
    ) -> TeacherForced:
        """Read int32 [B, T] over what ``encode`` returned.

        The attention is the mean over the heads of the last layer's, as CTranslate2 has it.
        """
        size = tf.shape(target_ids)[1]
        causal_bias = MASKED * (1.0 - tf.linalg.band_part(tf.ones([size, size]), -1, 0))  # [target, target]
        x = self.embed_target(target_ids, tf.range(size), training)
        paid: list[tf.Tensor] = []
        for layer in self.decoder_layers:

            def over_memory(
                y: tf.Tensor, residual: tf.Tensor | None, attention: CrossAttention = layer.cross_attention
            ) -> tf.Tensor:
                key, value = attention.project_memory(memory)
                paid.append(attention.attention_weights(attention.project_query(y), key, memory_bias))
                return attention.mix(paid[-1], value, residual)

            over_self = partial(layer.self_attention.__call__, bias=causal_bias)
            x = layer(x, over_self=over_self, over_memory=over_memory, training=training)
        return TeacherForced(self.decoded(x), tf.reduce_mean(tf.cast(paid[-1], tf.float32), axis=1))

    def teacher_forced(self, inputs: ModelInputs, training: bool = False) -> TeacherForced:
        """See ``Seq2SeqModel.teacher_forced``."""
        memory, memory_bias = self.encode(inputs["source_ids"], inputs["source_lengths"], training)
        return self.decode(inputs["target_ids"], memory, memory_bias, training)

    def decoder_step(self) -> TransformerStep:
        """The key/value-cached decoder over the same layers."""
        return TransformerStep(self)
