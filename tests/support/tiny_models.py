"""Tiny untrained models with a tiny multilingual tokenizer: quick to build, the same at every run."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model_export.config import RnnConfig, RunConfig, TokenizerConfig, TransformerConfig
from model_export.models import build_model
from model_export.text.tokenizers import EOS_ID, train_sentencepiece
from model_export.trained_model import TrainedModel

VOCABULARY_SIZE = 340
LIMITS = {"max_source_tokens": 48, "max_target_tokens": 32, "max_beam_size": 6, "default_max_new_tokens": 20}
CORPUS = (
    "the cat sat on the mat",
    "a dog ran to the sea",
    "le chat est sur le tapis",
    "où est la mer ?",
    "안녕하세요",
    "오늘 날씨가 좋네요",
    "나는 밥을 먹었어요",
    "ねこはかわいい",
    "コーヒーをください",
    "日本語の本を読む",
    "今日は天気がいい",
    "it is late, go home!",
    "good 👍 cat",
    "sea, sun and rain.",
)

TRANSFORMER = TransformerConfig(
    architecture="transformer",
    vocabulary_size=VOCABULARY_SIZE,
    hidden_size=32,
    num_heads=4,
    feed_forward_size=64,
    num_encoder_layers=1,
    num_decoder_layers=1,
    norm="pre",
)
RNN = RnnConfig(
    architecture="rnn",
    cell="gru",
    attention="additive",
    vocabulary_size=VOCABULARY_SIZE,
    embedding_size=24,
    hidden_size=32,
    num_layers=1,
)

_DRAWS = {"transformer": (3, 1.0), "rnn": (2, 3.0)}
"""Seed and gain with which answers depend on the source, and some end, without amplifying differences of rounding."""


@lru_cache(maxsize=1)
def tiny_tokenizer() -> bytes:
    """Knows the characters of ``CORPUS`` and 256 bytes."""
    return train_sentencepiece(CORPUS * 4, VOCABULARY_SIZE, TokenizerConfig(character_coverage=1.0))


def tiny_model(config: TransformerConfig | RnnConfig) -> TrainedModel:
    """An untrained model that answers differently to every text, in letters, and ends some of its answers."""
    run = RunConfig.model_validate({"model": config, "limits": LIMITS})
    model = build_model(run.model, run.limits)
    seed, gain = _DRAWS[config.architecture]
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        if len(weight.shape) > 1:  # biases and scales stay as they are
            glorot = (2.0 / sum(weight.shape[-2:])) ** 0.5
            weight.assign(generator.normal(0.0, gain * glorot, weight.shape))
    (kernel,) = [weight for weight in model.weights if weight.path == f"{config.architecture}/output/kernel"]
    kernel.assign(kernel * 8.0)  # fresh weights hardly prefer one token to another
    (bias,) = [weight for weight in model.weights if weight.path == f"{config.architecture}/output/bias"]
    bias.assign(_token_bias())
    return TrainedModel(
        config=run,
        tokenizer=tiny_tokenizer(),
        model=model,
        samples=list(CORPUS),
        report={"data": "a built-in corpus", "steps": 0},
    )


def _token_bias() -> NDArray[np.float32]:
    """Every answer may end, and is no random bytes."""
    bias = np.zeros(VOCABULARY_SIZE, np.float32)
    bias[EOS_ID] = 7.0
    bias[EOS_ID + 1 : EOS_ID + 257] = -1e3  # byte pieces follow the special ones
    return bias
