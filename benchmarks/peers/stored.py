"""The stored weights of a Transformer by role, as conversions to other engines read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from model_export.config import CONFIG_FILE, LimitsConfig, TransformerConfig, load_config
from model_export.models.layers import sinusoidal_positions
from model_export.trained_model import TOKENIZER_FILE, WEIGHTS_FILE, read_weights

LAYER_NORM_EPSILON = 1e-6
"""That of ``layers.LayerNorm``; other engines add 1e-5 unless they are told."""

Array = NDArray[np.float32]


class ConversionError(ValueError):
    """A model that the other engine cannot express."""


@dataclass(frozen=True)
class StoredTransformer:
    """A trained model's folder, read."""

    config: TransformerConfig
    limits: LimitsConfig
    arrays: dict[str, Array]
    pieces: list[str]
    """Spelling of every token, by id."""

    @classmethod
    def read(cls, folder: Path) -> StoredTransformer:
        """Read ``folder``, as ``save_trained_model`` left it.

        Raises:
            ConversionError: another architecture.
        """
        run = load_config(str(folder / CONFIG_FILE))
        if not isinstance(run.model, TransformerConfig):
            raise ConversionError(f"{folder}: only a transformer can be converted, this is {run.model.name}")
        tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / TOKENIZER_FILE))
        pieces = [tokenizer.id_to_piece(index) for index in range(tokenizer.vocab_size())]
        return cls(run.model, run.limits, read_weights(folder / WEIGHTS_FILE), pieces)

    @property
    def embedding(self) -> Array:
        """[vocabulary, width], of encoder and decoder."""
        return self.arrays["transformer/embedding/table"]

    def linear(self, path: str) -> tuple[Array, Array]:
        """Kernel [out, in] and bias [out]."""
        tied = path == "output" and self.config.tie_output
        kernel = self.embedding if tied else self.arrays[f"transformer/{path}/kernel"]
        return kernel, self.arrays[f"transformer/{path}/bias"]

    def norm(self, path: str) -> tuple[Array, Array]:
        """Gamma and beta, each [width]."""
        return self.arrays[f"transformer/{path}/gamma"], self.arrays[f"transformer/{path}/beta"]

    def positions(self, side: str) -> Array:
        """[positions, width] of ``source`` or ``target``."""
        if self.config.positions == "learned":
            return self.arrays[f"transformer/{side}_positions"]
        count = max(self.limits.max_source_tokens, self.limits.max_target_tokens)
        return sinusoidal_positions(count, self.config.hidden_size)
