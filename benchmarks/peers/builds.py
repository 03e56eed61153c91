"""What the benchmarks run, made when it is first needed and kept in ``build/benchmarks``."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.peers.countdown import Row

REPOSITORY = Path(__file__).parents[2]
_FOLDER = REPOSITORY / "build" / "benchmarks"
_PEERS = REPOSITORY / "benchmarks" / "peers"
_UNUSED = ("cli.py", "console.py", "evaluation", "inspection.py", "profiling.py", "training")  # change no artifact
CALIBRATION_FILE = "calibration.tsv"
"""Text pairs in a folder of ``trained``."""


def configured(model: str) -> tuple[str, dict[str, Any]]:
    """Configuration and overrides of a model's name: ``transformer-pre`` is ``transformer`` with pre-norm."""
    config = model.removesuffix("-pre")
    return config, {} if config == model else {"model.norm": "pre"}


def trained(config: str, overrides: Mapping[str, Any] | None = None, countdowns: Sequence[Row] = ()) -> Path:
    """The folder of ``random_model(config, overrides)``, as training would have left it.

    ``countdowns`` are rows that it shall answer so, if there are any.
    """
    rows = [[row.source, row.length] for row in countdowns]
    key = [json.dumps([config, dict(overrides or {}), rows]), *_sources_of("random_model.py")]
    key += _sources_of("countdown.py") if countdowns else []

    def make(folder: Path) -> None:
        from benchmarks.peers.countdown import fit_countdowns
        from benchmarks.peers.random_model import random_model, random_pairs
        from model_export.trained_model import save_trained_model

        model = random_model(config, overrides)
        if countdowns:
            fit_countdowns(model, countdowns)
        save_trained_model(folder, model)
        (folder / CALIBRATION_FILE).write_text(random_pairs(model.config.model.vocabulary_size), encoding="utf-8")

    return _made(f"{config}-countdown" if countdowns else config, key, make)


def artifact(model: Path, dtype: str, calibration: Path | None = None) -> Path:
    """The exported version of a trained model's folder; exported anew when the exporter's sources have changed.

    Args:
        model: as ``trained`` gives it, or any other trained model.
        dtype: as ``malgil-export export --dtype`` takes it.
        calibration: text pairs to measure static scales of int8 by.
    """
    name = f"{model.name}-{dtype}{'-static' if calibration else ''}"

    def make(folder: Path) -> None:
        from model_export.calibration import calibrate
        from model_export.export import export_model
        from model_export.trained_model import load_trained_model

        loaded = load_trained_model(model)
        scales = calibrate(loaded, calibration) if calibration else None
        export_model(loaded, folder, model.name, version=1, dtype=dtype, scales=scales)

    pairs = calibration.read_text(encoding="utf-8") if calibration else ""
    return _made(name, [str(model), pairs, *_exporter_sources()], make) / model.name / "1"


def calibrated_artifact(model: Path) -> Path:
    """``artifact`` in int8 with static scales, of a model of ``trained``."""
    return artifact(model, "int8", model / CALIBRATION_FILE)


def ctranslate2(model: Path) -> Path:
    """The folder of ``to_ctranslate2``."""

    def make(folder: Path) -> None:
        from benchmarks.peers.to_ctranslate2 import to_ctranslate2

        to_ctranslate2(model, folder)

    return _made(f"{model.name}-ctranslate2", [str(model), *_sources_of("stored.py", "to_ctranslate2.py")], make)


def hugging_face(model: Path) -> Path:
    """The folder of ``to_hugging_face``."""

    def make(folder: Path) -> None:
        from benchmarks.peers.to_hugging_face import to_hugging_face

        to_hugging_face(model, folder)

    return _made(f"{model.name}-hugging-face", [str(model), *_sources_of("stored.py", "to_hugging_face.py")], make)


def _made(name: str, key: list[str], make: Callable[[Path], None]) -> Path:
    """The folder of this name and key: what is there, or what ``make`` writes, whole or not at all."""
    folder = _FOLDER / f"{name}-{hashlib.sha256(chr(0).join(key).encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        print(f"making {folder.relative_to(REPOSITORY)} ...", flush=True)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        make(partial)
        partial.rename(folder)
    return folder


def _sources_of(*names: str) -> list[str]:
    return [_without_comments(_PEERS / name) for name in names]


def _exporter_sources() -> list[str]:
    """The exporter's sources."""
    package = REPOSITORY / "model_export"
    paths = [path.relative_to(package) for path in sorted(package.rglob("*.py"))]
    return [_without_comments(package / path) for path in paths if path.parts[0] not in _UNUSED]


def _without_comments(source: Path) -> str:
    """What a Python file does, whatever it says about that and however it is laid out."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    return ast.dump(tree)
