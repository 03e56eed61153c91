"""A Transformer of ours as a model of Hugging Face's transformers: post-norm as Marian, pre-norm as Pegasus.

Both are the encoder-decoder of the paper with sinusoidal positions, and both keep the sines before the cosines, where
ours take turns. Swapping hidden units everywhere changes nothing that a Transformer computes; so the units are
reordered to fit those positions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    MarianConfig,
    MarianMTModel,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
)

from benchmarks.peers.stored import LAYER_NORM_EPSILON, Array, ConversionError, StoredTransformer
from model_export.text.tokenizers import BOS_ID, EOS_ID, PAD_ID

_KINDS = {"post": (MarianConfig, MarianMTModel), "pre": (PegasusConfig, PegasusForConditionalGeneration)}


_KIND = ("weight", "bias")


def to_hugging_face(trained: Path, folder: Path) -> None:
    """Write ``folder`` with the weights of the trained model's folder ``trained``, in float32.

    A source must end with the id of ``</s>``, as it must for our model.

    Raises:
        ConversionError: not a Transformer, or one with learned positions.
    """
    stored = StoredTransformer.read(trained)
    config = stored.config
    if config.positions != "sinusoidal":
        raise ConversionError(f"{trained}: Marian and Pegasus know sinusoidal positions only, not {config.positions}")
    config_class, model_class = _KINDS[config.norm]
    model = model_class(config_class(**_settings(stored)))
    positions = {name: tensor for name, tensor in model.state_dict().items() if "embed_positions" in name}
    tensors = {name: torch.tensor(array) for name, array in _arrays(stored, list(model.state_dict())).items()}
    model.load_state_dict({**positions, **tensors})
    # Otherwise the last token would be an enforced end, and the length a default.
    model.generation_config = GenerationConfig(
        pad_token_id=PAD_ID, bos_token_id=BOS_ID, eos_token_id=EOS_ID, decoder_start_token_id=BOS_ID
    )
    model.save_pretrained(folder)


def load_hugging_face(folder: Path) -> PreTrainedModel:
    """The model of ``to_hugging_face``, with the small constant of our norms, which neither class has a setting for."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = LAYER_NORM_EPSILON
    return model


def _settings(stored: StoredTransformer) -> dict[str, object]:
    """Arguments that both configurations share."""
    config = stored.config
    return {
        "vocab_size": config.vocabulary_size,
        "d_model": config.hidden_size,
        "encoder_layers": config.num_encoder_layers,
        "decoder_layers": config.num_decoder_layers,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.feed_forward_size,
        "decoder_ffn_dim": config.feed_forward_size,
        "activation_function": config.activation,
        "scale_embedding": True,
        "max_position_embeddings": max(stored.limits.max_source_tokens, stored.limits.max_target_tokens),
        "tie_word_embeddings": config.tie_output,
        "share_encoder_decoder_embeddings": config.tie_output,
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "decoder_start_token_id": BOS_ID,
        "forced_eos_token_id": None,
    }


def _arrays(stored: StoredTransformer, names: list[str]) -> dict[str, Array]:
    """The weights by the names that Marian and Pegasus give them; ``names`` are those of the model to fill."""
    order = np.concatenate([np.arange(start, stored.config.hidden_size, 2) for start in (0, 1)])  # sines, then cosines
    tables = [name for name in names if name.endswith(("shared.weight", "embed_tokens.weight"))]
    arrays = dict.fromkeys(tables, stored.embedding[:, order])
    kernel, bias = stored.linear("output")
    arrays |= {"lm_head.weight": kernel[:, order], "final_logits_bias": bias[None]}
    for side, count in (("encoder", stored.config.num_encoder_layers), ("decoder", stored.config.num_decoder_layers)):
        for index in range(count):
            layer = _layer(stored, f"{side}_{index}", order)
            arrays |= {f"model.{side}.layers.{index}.{name}": array for name, array in layer.items()}
        if stored.config.norm == "pre":
            arrays |= _writing(f"model.{side}.layer_norm", stored.norm(f"{side}_norm"), order)
    return arrays


def _layer(stored: StoredTransformer, path: str, order: NDArray[np.intp]) -> dict[str, Array]:
    """One layer of encoder or decoder."""
    attention, feed_forward = f"{path}/self_attention", f"{path}/feed_forward"
    arrays = {
        **_reading("self_attn", ["q_proj", "k_proj", "v_proj"], stored.linear(f"{attention}/qkv"), order),
        **_writing("self_attn.out_proj", stored.linear(f"{attention}/output"), order),
        **_writing("self_attn_layer_norm", stored.norm(f"{attention}_sublayer/norm"), order),
        **_reading("", ["fc1"], stored.linear(f"{feed_forward}/expand"), order),
        **_writing("fc2", stored.linear(f"{feed_forward}/shrink"), order),
        **_writing("final_layer_norm", stored.norm(f"{feed_forward}/sublayer/norm"), order),
    }
    if path.startswith("decoder"):
        attention = f"{path}/cross_attention"
        arrays |= {
            **_reading("encoder_attn", ["q_proj"], stored.linear(f"{attention}/query"), order),
            **_reading("encoder_attn", ["k_proj", "v_proj"], stored.linear(f"{attention}/key_value"), order),
            **_writing("encoder_attn.out_proj", stored.linear(f"{attention}/output"), order),
            **_writing("encoder_attn_layer_norm", stored.norm(f"{attention}_sublayer/norm"), order),
        }
    return arrays


def _reading(
    module: str, names: list[str], kernel_and_bias: tuple[Array, Array], order: NDArray[np.intp]
) -> dict[str, Array]:
    """Projections ``names`` of hidden units that ours has fused in one."""
    kernel, bias = kernel_and_bias
    parts = zip(names, np.split(kernel[:, order], len(names)), np.split(bias, len(names)), strict=True)
    prefix = f"{module}." if module else ""
    return {f"{prefix}{name}.{kind}": part for name, *pair in parts for kind, part in zip(_KIND, pair, strict=True)}


def _writing(module: str, pair: tuple[Array, Array], order: NDArray[np.intp]) -> dict[str, Array]:
    """A projection to hidden units, or a norm of them."""
    return {f"{module}.{kind}": array[order] for kind, array in zip(_KIND, pair, strict=True)}
