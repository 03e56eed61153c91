"""``malgil-export``: what the commands say, where, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_export.cli import app
from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET, Profile, ProfiledCall
from service.backends.scripted import scripted_manifest
from tests.model_export.terminal import plain, run_on_terminal
from tests.support.tiny_training import pairs, tiny_config, write_pairs

REPOSITORY = Path(__file__).parents[2]


def run(*arguments: str, stdin: str | bytes | None = None) -> Any:
    """The command in this process: ``exit_code``, ``stdout``, ``stderr``."""
    return CliRunner().invoke(app, list(arguments), input=stdin)


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as its users run it."""
    return subprocess.run(
        [sys.executable, "-m", "model_export", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "NO_COLOR": "1"},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as ``train`` leaves it."""
    folder = tmp_path_factory.mktemp("runs")
    config = folder / "tiny.yaml"
    config.write_text(tiny_config().to_yaml(), encoding="utf-8")
    data = write_pairs(folder / "pairs.tsv", [*pairs(), ("no target", "")])
    out = folder / "tiny"
    settings = ["--set", "training.epochs=1", "--set", "training.save_dtype=float16"]

    result = run("train", str(config), "--train", data, "--out", str(out), "--skip-malformed", *settings)

    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out}\n"
    return out


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "export", "verify", "profile", "inspect", "generate", "evaluate"])
def test_every_command_explains_itself_with_examples(command: str) -> None:
    result = run(command, "--help")

    assert result.exit_code == 0
    assert re.search(r"Examples?:\n +malgil-export " + command, result.stdout)
    assert "--debug" in result.stdout


def test_version() -> None:
    assert run("--version").stdout == f"malgil-export {version('malgil')}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "No such command 'fly'"),
        (["train", "rnn", "--out", "x"], "Missing option '--train'"),
        (["train", "rnn", "--train", "x", "--out", "x", "--set", "dropout"], "'dropout' is not KEY=VALUE"),
        (["train", "rnn", "--train", "x", "--out", "x", "--set", "a=["], "the value is not YAML"),
        (["export", "no-such-folder", "--to", "x"], "'no-such-folder' does not exist"),
        (["verify", "no-such-folder"], "'no-such-folder' does not exist"),
        (["profile", "tests", "--seconds", "0.5"], "'--seconds'"),
        (["generate", "tests", "text", "--num-hypotheses", "2"], "at most --beam-size, 1"),
        (["generate", "tests", "text", "--beam-size", "0"], "'--beam-size'"),
    ],
)
def test_bad_usage_is_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "bert"], "no configuration 'bert': give a YAML file or one of rnn, rnn-attention, transformer"),
        (["train", "rnn", "--train", "x", "--out", "x", "--set", "model.layers=2"], "unknown key 'model.layers'"),
        (["train", "rnn", "--train", "nowhere/*.tsv", "--out", "x"], "nowhere/*.tsv"),
        (["inspect", "tests"], "tests is neither a trained model (config.yaml is missing) nor an artifact"),
        (["export", "tests", "--to", "x"], "tests is no trained model: config.yaml is missing"),
        (["generate", "tests", "text"], "tests is no trained model: config.yaml is missing"),
        (["verify", "tests"], "tests is no exported model: assets/manifest.json is missing"),
        (["profile", "tests"], "tests is no exported model: assets/manifest.json is missing"),
    ],
)
def test_a_failure_is_1_with_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)

    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_process_fails_without_traceback_unless_asked() -> None:
    plain, debug = run_process("inspect", "bert"), run_process("inspect", "bert", "--debug")

    assert (plain.returncode, len(plain.stderr.splitlines())) == (1, 1)
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr
    assert "ConfigError" in debug.stderr


# --- inspect ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [("rnn", 7_782_208), ("rnn-attention", 8_176_193), ("transformer", 37_625_664), ("transformer-base", 111_533_888)],
)
def test_inspect_counts_the_parameters_of_shipped_configurations(name: str, count: int) -> None:
    facts = json.loads(run("inspect", name, "--json").stdout)

    assert facts["kind"] == "configuration"
    assert facts["parameter_count"] == count
    assert sum(facts["components"].values()) == count
    assert facts["config"]["model"]["vocabulary_size"] == 8000


def test_inspect_shows_a_table() -> None:
    shown = run("inspect", "rnn").stdout

    assert "7,782,208" in shown
    for component, count in {"embedding": "2,048,000", "decoder_0": "525,312", "output": "2,056,000"}.items():
        assert re.search(rf"{component} +│ +{count} ", shown)


def test_inspect_tells_a_trained_models_report(trained: Path) -> None:
    facts = json.loads(run("inspect", str(trained), "--json").stdout)

    assert (facts["kind"], facts["finished"]) == ("trained model", True)
    assert facts["config"]["training"]["epochs"] == 1
    assert facts["report"]["data"]["train"]["malformed"] == 1
    assert facts["report"]["storage"]["dtype"] == "float16"
    assert f"{facts['report']['metrics']['perplexity']:.4g}" in run("inspect", str(trained)).stdout


def test_inspect_tells_an_artifacts_manifest(artifact_root: Path) -> None:
    artifact = artifact_root / "tiny-rnn" / "1"
    facts = json.loads(run("inspect", str(artifact), "--json").stdout)
    manifest = json.loads((artifact / ASSETS_FOLDER / MANIFEST_ASSET).read_text(encoding="utf-8"))

    assert facts["kind"] == "artifact"
    assert facts["certificate"]["cases"] == len(manifest["certificate"]["cases"])
    assert facts["signatures"] == sorted(manifest["signatures"])
    for key in ("model_name", "parameter_count", "limits", "tokenizer", "provenance"):
        assert facts[key] == manifest[key]
    assert re.search(rf"parameter_count +│ {manifest['parameter_count']:,} ", run("inspect", str(artifact)).stdout)


def test_profile_shows_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def profile(artifact: Path, seconds: float, on_progress: object) -> Profile:
        asked.append((artifact, seconds))
        return Profile("a CPU", 1, "2.21.0", (ProfiledCall(4, 8, 8, 1, 0.1),))

    monkeypatch.setattr("model_export.profiling.profile", profile)
    result = run("profile", str(tmp_path), "--seconds", "5")

    assert (result.exit_code, asked) == (0, [(tmp_path, 5.0)])
    (row,) = [re.findall(r"[\d,]+", line) for line in result.stdout.splitlines() if line.startswith("│ ")]
    assert row == ["1", "8", "8", "320"]


def test_inspect_shows_a_profile_and_tells_its_seconds(tmp_path: Path) -> None:
    calls = (ProfiledCall(1, 8, 8, 1, 0.02), ProfiledCall(64, 8, 8, 1, 0.1), ProfiledCall(1, 32, 16, 4, 0.04))
    (tmp_path / ASSETS_FOLDER).mkdir()
    manifest = replace(scripted_manifest("echo"), profile=Profile("a CPU", 1, "2.21.0", calls))
    (tmp_path / ASSETS_FOLDER / MANIFEST_ASSET).write_text(manifest.to_json(), encoding="utf-8")

    shown = run("inspect", str(tmp_path)).stdout
    assert "new tokens a second of one call: a CPU, 1 thread" in " ".join(shown.split())
    rows = [re.findall(r"[\d,]+", line) for line in shown.splitlines() if line.startswith("│ ")]
    assert ["1", "8", "8", "400", "5,120"] in rows
    assert ["4", "32", "16", "400"] in rows
    facts = json.loads(run("inspect", str(tmp_path), "--json").stdout)
    assert [call["seconds"] for call in facts["profile"]["calls"]] == [0.02, 0.1, 0.04]


def test_a_folder_of_something_else_hides_no_shipped_configuration(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rnn").mkdir()
    shutil.copytree(trained, tmp_path / "transformer")

    assert json.loads(run("inspect", "rnn", "--json").stdout)["kind"] == "configuration"
    assert json.loads(run("inspect", "transformer", "--json").stdout)["kind"] == "trained model"
    assert "rnn is neither a trained model" in run("inspect", "./rnn").stderr


# --- generate, export, verify -----------------------------------------------------------------------------------------


def test_an_artifact_and_its_trained_model_generate_the_same(artifact_root: Path, tmp_path: Path) -> None:
    from model_export.trained_model import save_trained_model
    from tests.support.tiny_models import RNN, tiny_model

    save_trained_model(tmp_path / "tiny-rnn", tiny_model(RNN))
    options = ["--beam-size", "3", "--num-hypotheses", "2", "--max-new-tokens", "5", "--json"]
    options += ["--length-penalty", "0"]  # the best is that with the best score
    texts = ["the cat", "안녕하세요", "le chat"]
    stdin = "".join(f"{text}\n" for text in texts)

    from_artifact = run("generate", str(artifact_root / "tiny-rnn" / "1"), *options, stdin=stdin)
    from_model = run("generate", str(tmp_path / "tiny-rnn"), *texts, *options)

    assert from_artifact.exit_code == from_model.exit_code == 0
    answers, same = ([json.loads(line) for line in each.stdout.splitlines()] for each in (from_artifact, from_model))
    assert [answer["text"] for answer in answers] == texts
    for answer, other in zip(answers, same, strict=True):
        first, second = answer["hypotheses"]
        assert first["score"] >= second["score"]
        assert first["finish_reason"] in ("eos_token", "length")
        assert [each["generated_text"] for each in other["hypotheses"]] == [
            first["generated_text"],
            second["generated_text"],
        ]


def test_generate_writes_one_line_for_every_text(artifact_root: Path) -> None:
    result = run("generate", str(artifact_root / "tiny-rnn" / "1"), "the cat", "--max-new-tokens", "3")

    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1


def test_a_terminal_shows_how_far_an_export_and_its_verification_are(tmp_path: Path) -> None:
    from model_export.trained_model import save_trained_model
    from tests.support.tiny_models import RNN, tiny_model

    save_trained_model(tmp_path / "tiny", tiny_model(RNN))
    command = [sys.executable, "-m", "model_export"]

    exported = run_on_terminal(*command, "export", str(tmp_path / "tiny"), "--to", str(tmp_path / "models"))
    artifact = tmp_path / "models" / "tiny" / "1"
    verified = run_on_terminal(*command, "verify", str(artifact))

    assert (exported.returncode, exported.stdout) == (0, f"{artifact}\n")
    shown = plain(exported.stderr)
    for stage in ("loading TensorFlow", "reading the model", "saving"):
        assert stage in shown
    for stage in ("tracing the graph", "making the certificate", "replaying the certificate"):
        assert re.search(rf"{stage} \S+ \d+/\d+ ", shown)
    assert verified.returncode == 0
    assert verified.stdout.startswith(f"{artifact}: as certified")
    assert "loading TensorFlow" in plain(verified.stderr)
    assert re.search(r"replaying the certificate \S+ (\d+)/\1 ", plain(verified.stderr))


def test_answers_go_to_a_file_while_a_terminal_shows_how_many_there_are(artifact_root: Path) -> None:
    artifact = str(artifact_root / "tiny-rnn" / "1")
    texts = ["the cat"] * 40

    ran = run_on_terminal(sys.executable, "-m", "model_export", "generate", artifact, *texts, "--max-new-tokens", "3")

    assert ran.stdout.count("\n") == 40
    assert re.search(r"generating \S+ 32/40 ", plain(ran.stderr))


def test_without_a_terminal_nothing_but_results_is_written(artifact_root: Path) -> None:
    ran = run_process("generate", str(artifact_root / "tiny-rnn" / "1"), "the cat", "--max-new-tokens", "3")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("\n") == 1
    assert "\x1b" not in ran.stdout


def test_generate_names_the_text_that_the_model_refuses(artifact_root: Path) -> None:
    stdin = "the cat\n" * 40 + "cat " * 100 + "\nthe cat\n"
    result = run("generate", str(artifact_root / "tiny-rnn" / "1"), "--max-new-tokens", "3", stdin=stdin)

    assert result.exit_code == 1
    shown = "cat " * 10 + "…"
    assert result.stderr == f"error: text 41, {shown!r}: a source must have 1..48 tokens, EOS counted\n"
    assert result.stdout.count("\n") == 32  # the batch before


@pytest.mark.parametrize("arguments", [[], ["the cat", "b\udcff"]])
def test_generate_names_the_text_that_is_no_utf_8(artifact_root: Path, arguments: list[str]) -> None:
    result = run("generate", str(artifact_root / "tiny-rnn" / "1"), *arguments, stdin=b"the cat\r\nb\xff\n")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: text 2 is not UTF-8: 'b\\udcff'\n"


def test_generate_names_no_text_where_the_model_refuses_an_option(artifact_root: Path) -> None:
    result = run("generate", str(artifact_root / "tiny-rnn" / "1"), "the cat", "--max-new-tokens", "4000")

    assert result.exit_code == 1
    assert re.fullmatch(r"error: prefix_lengths \+ max_new_tokens must be at most \d+\n", result.stderr)


def test_generate_takes_a_byte_order_mark_for_none_of_the_text(artifact_root: Path) -> None:
    artifact = str(artifact_root / "tiny-rnn" / "1")
    result = run("generate", artifact, "--max-new-tokens", "3", "--json", stdin="\ufeffthe cat\n")

    assert json.loads(result.stdout)["text"] == "the cat"


def test_export_refuses_a_version_that_exists(artifact_root: Path, trained: Path) -> None:
    result = run("export", str(trained), "--to", str(artifact_root), "--name", "tiny-rnn", "--version", "1")

    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "versions are never overwritten" in result.stderr


def test_verify_is_0_for_what_was_exported_and_1_for_what_was_changed(artifact_root: Path, tmp_path: Path) -> None:
    artifact = artifact_root / "tiny-rnn" / "1"
    changed = shutil.copytree(artifact, tmp_path / "changed")
    manifest = changed / ASSETS_FOLDER / MANIFEST_ASSET
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"parameter_count"', '"parameters"'))

    good, bad = run("verify", str(artifact)), run("verify", str(changed))

    assert good.exit_code == 0, good.stderr
    assert "as certified" in good.stdout
    assert bad.exit_code == 1
    assert "parameter" in bad.stderr
    assert "1 differences" in bad.stdout
