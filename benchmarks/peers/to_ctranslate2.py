"""A Transformer of ours as a CTranslate2 model (https://opennmt.net/CTranslate2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import attention_spec, common_spec, transformer_spec

from benchmarks.peers.stored import LAYER_NORM_EPSILON, Array, StoredTransformer
from model_export.text.tokenizers import BOS_ID, EOS_ID, UNK_ID

_ACTIVATIONS = {"relu": common_spec.Activation.RELU, "gelu": common_spec.Activation.GELU}


def to_ctranslate2(trained: Path, folder: Path) -> None:
    """Write ``folder`` with the weights of the trained model's folder ``trained``, in float32.

    Tokens are the tokenizer's pieces. A source must end with ``</s>``, as it must for our model: nothing is added.

    Raises:
        ConversionError: not a Transformer.
    """
    stored = StoredTransformer.read(trained)
    config = stored.config
    spec = transformer_spec.TransformerSpec.from_config(
        (config.num_encoder_layers, config.num_decoder_layers),
        config.num_heads,
        pre_norm=config.norm == "pre",
        activation=_ACTIVATIONS[config.activation],
    )
    for side, stack, embeddings in (
        ("encoder", spec.encoder, spec.encoder.embeddings[0]),
        ("decoder", spec.decoder, spec.decoder.embeddings),
    ):
        embeddings.weight = stored.embedding  # multiplied by the root of the width, as CTranslate2 does by default
        stack.position_encodings.encodings = stored.positions("source" if side == "encoder" else "target")
        for index, layer in enumerate(stack.layer):
            _fill_layer(layer, stored, f"{side}_{index}")
        if config.norm == "pre":
            _fill_norm(stack.layer_norm, stored.norm(f"{side}_norm"))
    _fill_linear(spec.decoder.projection, stored.linear("output"))
    spec.register_source_vocabulary(stored.pieces)
    spec.register_target_vocabulary(stored.pieces)
    spec.config.unk_token, spec.config.eos_token = stored.pieces[UNK_ID], stored.pieces[EOS_ID]
    spec.config.bos_token = spec.config.decoder_start_token = stored.pieces[BOS_ID]
    spec.config.layer_norm_epsilon = LAYER_NORM_EPSILON
    spec.validate()
    spec.optimize()
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def _fill_layer(layer: Any, stored: StoredTransformer, path: str) -> None:
    """One layer of encoder or decoder."""
    _fill_attention(layer.self_attention, stored, f"{path}/self_attention", ["qkv", "output"])
    if hasattr(layer, "attention"):
        _fill_attention(layer.attention, stored, f"{path}/cross_attention", ["query", "key_value", "output"])
    _fill_linear(layer.ffn.linear_0, stored.linear(f"{path}/feed_forward/expand"))
    _fill_linear(layer.ffn.linear_1, stored.linear(f"{path}/feed_forward/shrink"))
    _fill_norm(layer.ffn.layer_norm, stored.norm(f"{path}/feed_forward/sublayer/norm"))


def _fill_attention(
    attention: attention_spec.MultiHeadAttentionSpec, stored: StoredTransformer, path: str, linears: list[str]
) -> None:
    for spec, name in zip(attention.linear, linears, strict=True):
        _fill_linear(spec, stored.linear(f"{path}/{name}"))
    _fill_norm(attention.layer_norm, stored.norm(f"{path}_sublayer/norm"))


def _fill_linear(spec: common_spec.LinearSpec, kernel_and_bias: tuple[Array, Array]) -> None:
    spec.weight, spec.bias = (np.ascontiguousarray(array) for array in kernel_and_bias)


def _fill_norm(spec: common_spec.LayerNormSpec, gamma_and_beta: tuple[Array, Array]) -> None:
    spec.gamma, spec.beta = gamma_and_beta
