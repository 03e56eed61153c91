"""What a configuration, a trained model or an artifact is, in figures."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from model_export.config import CONFIG_FILE, RunConfig, UserError, load_config, shipped_names
from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET, ContractError, Manifest
from model_export.startup import load_tensorflow
from model_export.text.progress import OnProgress, silent

if TYPE_CHECKING:
    from model_export.models import Seq2SeqModel


class InspectionError(UserError):
    """There is nothing here that can be inspected."""


def inspect(target: str, on_progress: OnProgress = silent) -> dict[str, Any]:
    """Facts about a shipped configuration, a configuration file, a trained model's folder or an artifact, for JSON.

    ``kind`` says which of them it is; every kind has ``architecture`` and ``parameter_count``. A shipped name means
    the configuration unless a model or an artifact is in a folder of that name.

    Raises:
        InspectionError: a folder of neither kind, or a manifest that cannot be read.
        ConfigError: no such configuration, or one that is not valid.
    """
    folder = Path(target)
    if (folder / ASSETS_FOLDER / MANIFEST_ASSET).is_file():
        return _inspect_artifact(folder)
    if (folder / CONFIG_FILE).is_file():
        return _inspect_trained_model(folder, on_progress)
    if folder.is_dir() and target not in shipped_names():
        raise InspectionError(
            f"{folder} is neither a trained model ({CONFIG_FILE} is missing) "
            f"nor an artifact ({ASSETS_FOLDER}/{MANIFEST_ASSET} is missing)"
        )
    return {"kind": "configuration", **_inspect_config(load_config(target), on_progress)}


def _inspect_artifact(folder: Path) -> dict[str, Any]:
    try:
        manifest = Manifest.from_json((folder / ASSETS_FOLDER / MANIFEST_ASSET).read_bytes())
    except ContractError as error:
        raise InspectionError(f"{folder}: {error}") from error
    facts = {key: value for key, value in asdict(manifest).items() if key not in ("signatures", "certificate")}
    certificate = manifest.certificate
    return {
        "kind": "artifact",
        **facts,
        "signatures": sorted(manifest.signatures),
        "certificate": certificate
        and {
            "cases": len(certificate.cases),
            "score_tolerance": certificate.score_tolerance,
            "logit_noise": certificate.logit_noise,
        },
    }


def _inspect_trained_model(folder: Path, on_progress: OnProgress) -> dict[str, Any]:
    facts = _inspect_config(load_config(str(folder / CONFIG_FILE)), on_progress)
    report = folder / "report.json"
    finished = report.is_file()
    return {
        "kind": "trained model",
        "finished": finished,
        **facts,
        "report": json.loads(report.read_text(encoding="utf-8")) if finished else None,
    }


def _inspect_config(config: RunConfig, on_progress: OnProgress) -> dict[str, Any]:
    load_tensorflow()  # only where parameters are counted: a manifest is read at once
    from model_export.models import build_model

    on_progress("building the model", 0, 0)
    components = count_parameters(build_model(config.model, config.limits))
    return {
        "architecture": config.model.name,
        "parameter_count": sum(components.values()),
        "components": components,
        "config": config.model_dump(mode="json"),
    }


def count_parameters(model: Seq2SeqModel) -> dict[str, int]:
    """Trained numbers of each part of the model, named by the first step of their variables' paths below the model."""
    counts: dict[str, int] = {}
    for weight in model.weights:
        component = weight.path.split("/")[1]
        counts[component] = counts.get(component, 0) + math.prod(weight.shape)
    return counts


def fact_tables(target: str, facts: dict[str, Any]) -> list[Table]:
    """The figures among ``inspect``'s facts, and the parameters of each component where they are known."""
    table = Table(title=f"{target}: {facts['kind']}", show_header=False)
    for key, value in facts.items():
        if isinstance(value, str | int) and key != "kind":
            table.add_row(key, f"{value:,}" if type(value) is int else f"{value}")
    for section in ("limits", "tokenizer", "certificate", "cpu_features", "calibration"):
        for key, value in (facts.get(section) or {}).items():
            table.add_row(f"{section}.{key}", f"{value}")
    report = facts.get("report") or facts.get("provenance") or {}
    for key, value in report.get("metrics", {}).items():
        table.add_row(f"metrics.{key}", f"{value:.4g}")
    tables = [table]
    if "components" in facts:
        tables.append(_component_table(facts))
    if facts.get("profile"):
        tables.append(profile_table(facts["profile"]))
    return tables


def profile_table(profile: dict[str, Any]) -> Table:
    """The new tokens a second of a profile's calls, by their lengths and rows."""
    calls, threads = profile["calls"], profile["intra_op_threads"]
    sizes = sorted({call["rows"] for call in calls})
    table = Table(
        "beam size",
        "source",
        "new",
        *(f"{rows} row{'s' if rows > 1 else ''}" for rows in sizes),
        title=f"new tokens a second of one call: {profile['cpu']}, {threads} thread{'s' if threads > 1 else ''}",
    )
    kinds = sorted({(call["beam_size"], call["source_tokens"], call["new_tokens"]) for call in calls})
    rates = {
        (call["beam_size"], call["source_tokens"], call["new_tokens"], call["rows"]): call["rows"]
        * call["new_tokens"]
        / call["seconds"]
        for call in calls
    }
    for kind in kinds:
        rated = (rates.get((*kind, rows)) for rows in sizes)
        table.add_row(*map(str, kind), *("" if rate is None else f"{rate:,.0f}" for rate in rated))
    for column in table.columns:
        column.justify = "right"
    return table


def _component_table(facts: dict[str, Any]) -> Table:
    table = Table("component", "parameters")
    table.columns[1].justify = "right"
    for component, count in facts["components"].items():
        table.add_row(component, f"{count:,}")
    table.add_section()
    table.add_row("total", f"{facts['parameter_count']:,}")
    return table
