"""The models: built from a configuration, trained by ``call``, decoded through ``decoder_step``."""

from __future__ import annotations

from model_export.config import LimitsConfig, RnnConfig, TransformerConfig
from model_export.models.base import ModelInputs, Seq2SeqModel
from model_export.models.rnn import Rnn
from model_export.models.transformer import Transformer

__all__ = ["ModelInputs", "Seq2SeqModel", "build_model"]


def build_model(config: RnnConfig | TransformerConfig, limits: LimitsConfig) -> Seq2SeqModel:
    """A model with fresh weights (``keras.utils.set_random_seed`` beforehand makes them reproducible)."""
    if isinstance(config, TransformerConfig):
        return Transformer(config, limits, name="transformer")
    return Rnn(config, name="rnn")
