"""A small model of every kind, with random weights and without a tokenizer."""

from __future__ import annotations

import keras
import numpy as np

from model_export.config import RunConfig
from model_export.models import Seq2SeqModel, build_model

VOCABULARY = 40
RNN = {"architecture": "rnn", "embedding_size": 24, "hidden_size": 16, "num_layers": 2}
TRANSFORMER = {
    "architecture": "transformer",
    "hidden_size": 16,
    "num_heads": 2,
    "feed_forward_size": 32,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
}
CONFIGS = {
    "lstm": RNN,
    "lstm-attention": RNN | {"attention": "additive"},
    "gru-attention": RNN | {"cell": "gru", "attention": "additive"},
    "simple-rnn-tied": RNN | {"cell": "simple_rnn", "embedding_size": 16, "tie_output": True},
    "transformer": TRANSFORMER,
    "transformer-pre-norm": TRANSFORMER | {"norm": "pre", "activation": "gelu"},
    "transformer-learned-tied": TRANSFORMER | {"positions": "learned", "tie_output": True},
}


def random_model(name: str) -> Seq2SeqModel:
    """A small model whose weights are large enough that answers differ from row to row."""
    keras.utils.set_random_seed(1)
    config = RunConfig.model_validate({"model": CONFIGS[name] | {"vocabulary_size": VOCABULARY}})
    model = build_model(config.model, config.limits)
    generator = np.random.default_rng(7)
    for variable in model.trainable_variables:
        variable.assign(variable + generator.normal(scale=0.4, size=variable.shape))
    return model
