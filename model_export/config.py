"""Configurations: frozen typed objects, one YAML file for one run (model, tokenizer, data, training, export).

Unknown keys and values out of bounds are refused by name. Shipped configurations (``rnn``, ``rnn-attention``,
``transformer``, ``transformer-base``) live in ``configs/`` and are named without a path.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

SHIPPED_FOLDER = Path(__file__).parent / "configs"
CONFIG_FILE = "config.yaml"
"""The configuration in a trained model's folder."""


class UserError(ValueError):
    """Something that the user can put right: the message says what is wrong and what would be right."""


class ConfigError(UserError):
    """A configuration that cannot be used; the message names file and key."""


class Config(BaseModel):
    """Base of every section: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]


class RnnConfig(Config):
    """Bidirectional recurrent encoder, recurrent decoder, attention optional.

    Decoder layer ``i`` starts from the final states of encoder layer ``i`` (both directions side by side), hence as
    many layers on either side and an even ``hidden_size``. With ``attention: additive`` the context (Bahdanau et al.
    2015, https://arxiv.org/abs/1409.0473) is concatenated to the input of the first decoder layer; its query is the
    output of the last decoder layer at the position before.
    """

    architecture: Literal["rnn"]
    cell: Literal["simple_rnn", "gru", "lstm"] = "lstm"
    attention: Literal["none", "additive"] = "none"
    vocabulary_size: PositiveInt = 8000
    embedding_size: PositiveInt = 256
    hidden_size: Annotated[int, Field(ge=2, multiple_of=2)] = 256
    num_layers: PositiveInt = 4
    dropout: Dropout = 0.1
    tie_output: bool = False

    @model_validator(mode="after")
    def _tied_sizes_agree(self) -> Self:
        if self.tie_output and self.embedding_size != self.hidden_size:
            raise ValueError("tie_output needs embedding_size equal to hidden_size")
        return self

    @property
    def name(self) -> str:
        """The name that manifests and reports use."""
        return "rnn-attention" if self.attention == "additive" else "rnn"


class TransformerConfig(Config):
    """Encoder-decoder Transformer (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    ``norm: post`` has no final norm, as in the paper; ``norm: pre`` (Xiong et al. 2020,
    https://arxiv.org/abs/2002.04745) ends either stack with one.
    """

    architecture: Literal["transformer"]
    vocabulary_size: PositiveInt = 8000
    hidden_size: PositiveInt = 512
    num_heads: PositiveInt = 8
    feed_forward_size: PositiveInt = 2048
    num_encoder_layers: PositiveInt = 4
    num_decoder_layers: PositiveInt = 4
    activation: Literal["relu", "gelu"] = "relu"
    norm: Literal["pre", "post"] = "post"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    dropout: Dropout = 0.1
    tie_output: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.hidden_size % 2:
            raise ValueError("hidden_size must be even")
        return self

    @property
    def name(self) -> str:
        """The name that manifests and reports use."""
        return self.architecture


ModelConfig = Annotated[RnnConfig | TransformerConfig, Field(discriminator="architecture")]


class LimitsConfig(Config):
    """Longest rows the model reads and writes, framing and EOS included (see ``contract.Limits``)."""

    max_source_tokens: PositiveInt = 512
    max_target_tokens: PositiveInt = 512
    max_beam_size: PositiveInt = 16
    default_max_new_tokens: PositiveInt = 128

    @model_validator(mode="after")
    def _default_fits(self) -> Self:
        if self.default_max_new_tokens > self.max_target_tokens:
            raise ValueError("default_max_new_tokens exceeds max_target_tokens")
        return self


class TokenizerConfig(Config):
    """SentencePiece training (Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226).

    The vocabulary size is the model's.
    """

    model_type: Literal["unigram", "bpe"] = "unigram"
    character_coverage: Annotated[float, Field(gt=0.9, le=1.0)] = 0.9995


class DataConfig(Config):
    """How text pairs become training rows. Which files they come from is said when training starts, not here."""

    overlong: Literal["filter", "truncate"] = "filter"
    """What happens to pairs beyond ``limits``: left out, or cut to fit (EOS kept)."""
    skip_malformed: bool = False
    """Count and skip lines that are not two non-empty UTF-8 fields, instead of refusing the file."""
    valid_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of the pairs held out for validation when no validation files are given."""


class OptimizerConfig(Config):
    """Adam (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980) and its learning rate over the steps of a run.

    ``inverse_sqrt``: linear warm-up to ``learning_rate``, then in proportion to ``1 / sqrt(step)`` (Vaswani et al.
    2017, section 5.3), and over the last ``decay_fraction`` of all steps linearly down to 0. ``constant``: the warm-up
    alone.
    """

    schedule: Literal["inverse_sqrt", "constant"] = "inverse_sqrt"
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 800
    decay_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.25
    beta_1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta_2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.98
    epsilon: Annotated[float, Field(gt=0.0)] = 1e-9
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
    """Largest global norm of the gradient of the mean loss per token."""


class TrainingConfig(Config):
    """Length of a run, its batches, its regularisation, and which weights it ends with."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    epochs: PositiveInt = 30
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16`` runs the matrix products of training steps in it (about twice as fast on CPUs with AMX); weights,
    optimizer and loss stay in float32, and so does all that is measured on validation data."""
    batch_tokens: PositiveInt = 4096
    """Most tokens of one batch, padding included, on the source side and on the target side each."""
    label_smoothing: Dropout = 0.1
    """Szegedy et al. 2016, https://arxiv.org/abs/1512.00567; spread evenly over the whole vocabulary."""
    monitor: Literal["loss", "accuracy", "bleu", "chrf"] = "loss"
    """The validation metric of early stopping and of ``average: best``; the last two decode after every epoch."""
    patience: PositiveInt | None = None
    """Stop after this many epochs without a better ``monitor``; ``average: best`` then ends with the best weights."""
    average: Literal["last", "best"] = "last"
    """Which epochs' weights are averaged into the final ones."""
    average_epochs: PositiveInt = 1
    save_dtype: Literal["float32", "float16"] = "float32"
    """How the final weights are stored; the report compares their quality with float32's."""
    checkpoint_every_steps: PositiveInt | None = None
    """Save the state also this often within an epoch; at its end it is saved always."""
    optimizer: OptimizerConfig = OptimizerConfig()


class RunConfig(Config):
    """One training run, from text pairs to an exportable model."""

    model: ModelConfig
    limits: LimitsConfig = LimitsConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _longest_row_fits_a_batch(self) -> Self:
        longest = max(self.limits.max_source_tokens, self.limits.max_target_tokens)
        if self.training.batch_tokens < longest:
            raise ValueError(f"training.batch_tokens {self.training.batch_tokens} is below the longest row, {longest}")
        return self

    def to_yaml(self) -> str:
        """Every key, defaults included, so that a saved run means the same under later defaults."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def shipped_names() -> list[str]:
    """Names of the shipped configurations."""
    return sorted(path.stem for path in SHIPPED_FOLDER.glob("*.yaml"))


def load_config(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """A shipped configuration by name, or a YAML file by path.

    Args:
        name_or_path: a name of ``shipped_names()`` or a path that ends in ``.yaml`` / ``.yml`` or names a file.
        overrides: dotted keys with values, ``{"model.dropout": 0.3}``, applied over the file.

    Raises:
        ConfigError: no such configuration, not YAML, an unknown key or a value out of bounds.
    """
    shipped = SHIPPED_FOLDER / f"{name_or_path}.yaml"
    path = shipped if shipped.is_file() and "/" not in name_or_path else Path(name_or_path)
    if not path.is_file():
        raise ConfigError(f"no configuration {name_or_path!r}: give a YAML file or one of {', '.join(shipped_names())}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a mapping with the key 'model' is expected")
    for key, value in (overrides or {}).items():
        _set_dotted(raw, key, value)
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from error


def _set_dotted(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"{key}: {parent!r} is not a section")
    raw[last] = value


def _explain(error: ValidationError) -> str:
    """Every problem in one line, unknown keys with the nearest known one."""
    problems = []
    for item in error.errors():
        location = [str(part) for part in item["loc"]]
        if location[:1] == ["model"] and item["type"] != "union_tag_invalid":
            del location[1:2]  # pydantic puts the architecture here, which is no key of the file
        where = ".".join(location) or "configuration"
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(location[-1], _known_keys(), n=1)
            problems.append(f"unknown key {where!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
        elif item["type"] == "union_tag_not_found":
            problems.append("model.architecture is missing")
        else:
            problems.append(f"{where}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(problems)


def _known_keys(kinds: Sequence[type[Config]] | None = None) -> list[str]:
    kinds = kinds or [RunConfig, *Config.__subclasses__()]
    return sorted({name for kind in kinds for name in kind.model_fields})
