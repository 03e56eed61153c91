"""Configurations: what is shipped, what is refused, and how the refusal reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from model_export.config import (
    ConfigError,
    RnnConfig,
    RunConfig,
    TransformerConfig,
    load_config,
    shipped_names,
)


def write(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_shipped_names_are_the_four_architectures() -> None:
    assert shipped_names() == ["rnn", "rnn-attention", "transformer", "transformer-base"]


@pytest.mark.parametrize("name", ["rnn", "rnn-attention", "transformer", "transformer-base"])
def test_shipped_configurations_have_a_vocabulary_of_8000_and_an_untied_output(name: str) -> None:
    model = load_config(name).model

    assert model.vocabulary_size == 8000
    assert not model.tie_output


def test_the_shipped_shapes() -> None:
    rnn, attention = load_config("rnn").model, load_config("rnn-attention").model
    small, base = load_config("transformer").model, load_config("transformer-base").model

    assert isinstance(rnn, RnnConfig)
    assert (rnn.cell, rnn.num_layers, rnn.hidden_size, rnn.attention) == ("lstm", 4, 256, "none")
    assert attention == rnn.model_copy(update={"attention": "additive"})
    assert isinstance(small, TransformerConfig)
    assert (small.num_encoder_layers, small.num_decoder_layers) == (4, 4)
    assert (small.hidden_size, small.num_heads, small.feed_forward_size) == (512, 8, 2048)
    assert (small.activation, small.norm, small.positions) == ("relu", "post", "sinusoidal")
    assert isinstance(base, TransformerConfig)
    assert (base.num_encoder_layers, base.num_decoder_layers) == (6, 6)
    assert (base.hidden_size, base.num_heads, base.feed_forward_size) == (768, 12, 3072)


def test_names_that_reports_use() -> None:
    assert [load_config(name).model.name for name in shipped_names()] == [
        "rnn",
        "rnn-attention",
        "transformer",
        "transformer",
    ]


@pytest.mark.parametrize("name", ["rnn", "rnn-attention", "transformer", "transformer-base"])
def test_yaml_round_trip_keeps_every_value_and_writes_every_key(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    text = config.to_yaml()

    assert load_config(write(tmp_path, text)) == config
    assert set(yaml.safe_load(text)) == set(RunConfig.model_fields)
    assert set(yaml.safe_load(text)["model"]) == set(type(config.model).model_fields)


def test_a_configuration_is_frozen() -> None:
    config = load_config("rnn")

    with pytest.raises(ValidationError, match="frozen"):
        config.model.dropout = 0.5  # type: ignore[misc]


def test_overrides_go_over_the_file_and_make_missing_sections() -> None:
    config = load_config("rnn", {"model.dropout": 0.3, "limits.max_beam_size": 2})

    assert config.model.dropout == 0.3
    assert config.limits.max_beam_size == 2
    assert load_config("rnn").model.dropout == 0.1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.dropuot": 0.3}, "unknown key 'model.dropuot' (did you mean 'dropout'?)"),
        ({"model.dropout": 1.0}, "model.dropout: Input should be less than 1"),
        ({"model.hidden_size": 255}, "model.hidden_size: Input should be a multiple of 2"),
        ({"model.num_layers": 0}, "model.num_layers: Input should be greater than or equal to 1"),
        ({"model.cell": "elman"}, "model.cell: Input should be 'simple_rnn', 'gru' or 'lstm'"),
        (
            {"model.tie_output": True, "model.embedding_size": 64},
            "tie_output needs embedding_size equal to hidden_size",
        ),
        ({"limits.default_max_new_tokens": 513}, "limits: default_max_new_tokens exceeds max_target_tokens"),
        ({"training.batch_tokens": 511}, "training.batch_tokens 511 is below the longest row, 512"),
        ({"training.optimizer.warmup": 1}, "unknown key 'training.optimizer.warmup' (did you mean 'warmup_steps'?)"),
        ({"tokenizer.character_coverage": 0.5}, "tokenizer.character_coverage: Input should be greater than 0.9"),
        ({"model.architecture": "cnn"}, "Input tag 'cnn'"),
        ({"rnn": 1}, "unknown key 'rnn'"),
        ({"model.architecture.kind": 1}, "'architecture' is not a section"),
    ],
)
def test_refusals_name_the_key(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("rnn", overrides)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "heads", "message"),
    [(10, 3, "hidden_size 10 is not a multiple of num_heads 3"), (15, 3, "hidden_size must be even")],
)
def test_transformer_sizes_must_divide(size: int, heads: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("transformer", {"model.hidden_size": size, "model.num_heads": heads})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a mapping with the key 'model' is expected"),
        ("- 1\n", "a mapping with the key 'model' is expected"),
        ("model: [", "not YAML"),
        ("limits: {max_beam_size: 4}\n", "model: Field required"),
        ("model: {num_layers: 2}\n", "model.architecture is missing"),
        ("model:\n", "model: Input should be a valid dictionary"),
        ("model: {architecture: rnn, 3: 4}\n", "model.3: Keys should be strings"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)

    with pytest.raises(ConfigError) as caught:
        load_config(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {architecture: rnn, dropout: 2}\nlimits: {max_beam: 3}\n")

    with pytest.raises(ConfigError) as caught:
        load_config(path)

    assert "model.dropout" in str(caught.value)
    assert "unknown key 'limits.max_beam' (did you mean 'max_beam_size'?)" in str(caught.value)


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"model: \xff")

    with pytest.raises(ConfigError, match="not YAML"):
        load_config(str(path))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"no configuration 'bert'.*rnn, rnn-attention, transformer, transformer-base"
    ):
        load_config("bert")
