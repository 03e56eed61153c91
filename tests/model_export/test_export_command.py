"""``malgil-export export``: which models it writes in which dtypes, and what it tells of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from model_export import contract
from model_export.calibration import StaticScales
from model_export.cli import app
from model_export.contract import Calibration
from tests.support.tiny_models import CORPUS, RNN, tiny_model

Exports = list[tuple[Path, str, str, str | None]]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A trained model's folder, and pairs beside it."""
    from model_export.trained_model import save_trained_model

    save_trained_model(tmp_path / "tiny", tiny_model(RNN))
    (tmp_path / "pairs.tsv").write_text("".join(f"{text}\t{text}\n" for text in CORPUS), encoding="utf-8")
    return tmp_path / "tiny"


@pytest.fixture
def exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exports:
    """What was to be exported; each is said to be in the folder ``exported``."""
    ordered: Exports = []

    def export_model(trained, root, name, version, on_progress, ids_only, dtype, scales):  # type: ignore[no-untyped-def]
        on_progress("saving", 0, 0)
        ordered.append((root, name, dtype, scales and scales.source.file))
        return tmp_path / "exported"

    monkeypatch.setattr("model_export.export.export_model", export_model)
    monkeypatch.setattr(contract, "unsupported_here", lambda dtype, features: None)
    monkeypatch.setattr("model_export.artifact.machine.unsupported_here", lambda dtype, features: None)
    return ordered


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"tiny": "float32"}),
        (["--dtype", "int8"], {"tiny": "int8"}),
        (["--dtype", "int8, float32"], {"tiny-int8": "int8", "tiny": "float32"}),
        (["--dtype", "bfloat16", "--dtype", "int8,bfloat16", "--name", "m"], {"m": "bfloat16", "m-int8": "int8"}),
    ],
)
def test_several_dtypes_are_models_of_their_own(
    flags: list[str], expected: dict[str, str], model: Path, exports: Exports, tmp_path: Path
) -> None:
    result = run(model, "--to", tmp_path / "models", *flags)
    assert result.exit_code == 0, result.output
    assert {name: dtype for _, name, dtype, _ in exports} == expected
    assert len(result.stdout.splitlines()) == len(expected)


def test_only_int8_gets_the_scales(model: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrated = []

    def calibrate(trained: object, file: Path, on_progress: Callable[[str, int, int], None]) -> StaticScales:
        calibrated.append(file)
        return StaticScales({}, Calibration(file.name, "", 1))

    monkeypatch.setattr("model_export.calibration.calibrate", calibrate)
    pairs = model.parent / "pairs.tsv"
    result = run(model, "--to", "models", "--dtype", "float32,int8", "--calibrate", pairs)
    assert result.exit_code == 0, result.output
    assert calibrated == [pairs]
    assert [(dtype, scales) for _, _, dtype, scales in exports] == [("float32", None), ("int8", "pairs.tsv")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dtype", "int4"], "'int4' is none of float32, bfloat16, int8"),
        (["--dtype", ""], "'' is none of"),
        (["--calibrate", "README.md"], "only int8 has static scales: add --dtype int8"),
        (["--dtype", "int8", "--calibrate", "no-such-file"], "'no-such-file' does not exist"),
        (["--json", "figures.json"], "it tells what --data measures, which is missing"),
        (["--data", "x.tsv", "--json", "no/such/folder.json"], "no/such is no folder"),
    ],
)
def test_bad_usage_is_told_before_any_work(flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_export.export_command.load_tensorflow", lambda: pytest.fail("work"))
    result = run("models/en-fr", "--to", "models", *flags)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_a_processor_without_a_kernel_is_told_before_any_work(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.platform, "machine", lambda: "aarch64")
    result = run(model, "--to", model.parent / "models", "--dtype", "float32,int8")
    assert result.exit_code == 1
    assert "this machine has no kernel for int8" in result.stderr
    assert "lacks avx512f, avx512bw, avx512dq, avx512vl, avx512_vnni;" in result.stderr
    assert not (model.parent / "models").exists()


def test_a_version_of_any_of_the_models_that_exists_is_told_before_any_work(model: Path, exports: Exports) -> None:
    root = model.parent / "models"
    (root / "tiny-int8" / "3").mkdir(parents=True)
    result = run(model, "--to", root, "--dtype", "float32,int8", "--version", 3)
    assert result.exit_code == 1
    assert "tiny-int8/3 exists: versions are never overwritten" in result.stderr
    assert exports == []


def test_quality_is_measured_beside_the_trained_model(
    model: Path, exports: Exports, artifact_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "exported").symlink_to(artifact_root / "tiny-rnn" / "1")
    figures = tmp_path / "figures.json"
    pairs = ["--data", str(tmp_path / "pairs.tsv"), "--tokenize", "char", "--json", str(figures)]
    result = run(model, "--to", tmp_path / "models", "--dtype", "bfloat16", *pairs)
    assert result.exit_code == 0, result.output
    facts = json.loads(figures.read_text(encoding="utf-8"))
    assert [each["kind"] for each in facts["models"]] == ["float32", "bfloat16"]
    assert facts["data"]["files"] == [str(tmp_path / "pairs.tsv")]
    assert "tok:char" in facts["signatures"]["bleu"]
    comparison = facts["models"][1]["comparison"]
    assert comparison["identical_outputs"] == 1.0  # what stands for bfloat16 here was exported in float32
    assert comparison["differences"]["loss"]["difference"] == pytest.approx(0.0, abs=1e-4)
    assert "same alone and batched" in result.stdout
    assert "warning" not in result.stderr
