"""docs/training.md lists every key of a run with its default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from model_export.config import Config, RnnConfig, RunConfig, TransformerConfig

DOCUMENT = Path(__file__).parents[3] / "docs" / "training.md"


def documented() -> dict[str, list[Any]]:
    """Keys of the table, with the values of their default cells."""
    rows = [line.split("|") for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {row[1].strip(" `"): [yaml.safe_load(cell.strip(" `")) for cell in row[2].split("/")] for row in rows}


def defaults(config: Config, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        found |= defaults(value, f"{prefix}{name}.") if isinstance(value, Config) else {prefix + name: value}
    return found


def test_every_key_and_its_default() -> None:
    expected: dict[str, list[Any]] = {}
    for model in (TransformerConfig(architecture="transformer"), RnnConfig(architecture="rnn")):
        for key, value in defaults(RunConfig(model=model)).items():
            values = expected.setdefault(key, [])
            if value not in values:
                values.append(value)
    expected["model.architecture"] = [None]  # must be said

    # YAML reads 1e-09 as text.
    found = {key: [float(v) if v == "1e-09" else v for v in values] for key, values in documented().items()}
    assert found == expected
