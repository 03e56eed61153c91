"""``malgil-export evaluate`` as its users run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_export.cli import app
from tests.support.server_process import REPOSITORY, server_process
from tests.support.tiny_training import write_pairs

PAIRS = [
    ("the cat sat", "le chat est là"),
    ("a dog ran to the sea", "le chien"),
    ("the cat sat", "un chat"),
    ("안녕하세요", "안녕"),
    ("cat " * 100, "trop long"),
]


def run(*arguments: str) -> Any:
    """The command in this process: ``exit_code``, ``stdout``, ``stderr``."""
    return CliRunner().invoke(app, ["evaluate", *arguments])


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_pairs(tmp_path / "pairs.tsv", PAIRS)


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model"], "Missing option '--data'"),
        (["a", "b", "c", "--data", "x"], "one model is judged, or two are compared"),
        (["a", "--data", "x", "--sample-seed", "1"], "it draws the sources of --limit, which is missing"),
        (["a", "--data", "x", "--json", "no-such-folder/x.json"], "no-such-folder is no folder"),
        (["a", "--data", "x", "--json", "/"], "/ is a folder"),
        (["a", "--data", "x", "--limit", "0"], "'--limit'"),
        (["a", "--data", "x", "--timeout", "inf"], "'--timeout'"),
        (["a", "--data", "x", "--tokenize", "spm"], "'--tokenize'"),
        (["a", "--data", "x", "--num-hypotheses", "2"], "No such option: --num-hypotheses"),
        (["a", "--data", "x", "--top-k", str(2**31)], "2147483648 is too large"),
    ],
)
def test_bad_usage_is_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_label_is_no_version_of_a_folder(data: str) -> None:
    result = run("models", "--data", data, "--version", "stable")

    assert result.exit_code == 2
    assert "versions in folders are numbers, not 'stable'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is neither an artifact, nor a folder of its versions, nor a trained model"),
        (["http://127.0.0.1:1"], "no answer from http://127.0.0.1:1: "),
        (["http://127.0.0.1:1/a/b/c"], "is no address of a model"),
    ],
)
def test_a_failure_is_1_with_one_line(arguments: list[str], message: str, data: str) -> None:
    result = run(*arguments, "--data", data)

    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_malformed_lines_are_refused_or_counted(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "pairs.tsv", [("a", ""), ("b", "B")])

    refused = run("http://127.0.0.1:1", "--data", data)
    skipped = run("http://127.0.0.1:1", "--data", data, "--skip-malformed")

    assert "pairs.tsv:1: the target is empty" in refused.stderr
    assert "no answer from" in skipped.stderr


# --- models -----------------------------------------------------------------------------------------------------------


def test_an_artifact_and_its_trained_model_are_judged_the_same(artifact_root: Path, data: str, tmp_path: Path) -> None:
    from model_export.trained_model import save_trained_model
    from tests.support.tiny_models import RNN, tiny_model

    save_trained_model(tmp_path / "tiny", tiny_model(RNN))
    artifacts, written = artifact_root / "tiny-rnn", tmp_path / "found.json"

    options = ["--max-new-tokens", "5", "--samples", "100", "--json", str(written)]
    result = run(str(artifacts), str(tmp_path / "tiny"), "--data", data, *options)

    assert (result.exit_code, result.stderr) == (0, "")
    facts = json.loads(written.read_text(encoding="utf-8"))
    assert facts["data"] == {
        "files": [data],
        "sources": 3,
        "references": 4,
        "scored_pairs": 4,
        "skipped_sources": 1,
        "unscored_pairs": 0,
        "malformed": 0,
    }
    assert facts["decoding"] == {"max_new_tokens": 5}
    one, other = facts["models"]
    assert (one["model"], other["model"]) == (str(artifacts / "1"), str(tmp_path / "tiny"))
    for name in ("bleu", "chrf", "accuracy", "new_tokens"):
        assert one[name] == other[name]
    for name in ("loss", "perplexity", "nats_per_character"):
        assert one[name] == pytest.approx(other[name], rel=1e-4)
    assert 0 < one["loss"] < 100
    comparison = facts["comparison"]
    assert (comparison["identical_outputs"], comparison["same_tokens"]) == (1.0, True)
    assert {each["p_value"] for each in comparison["differences"].values()} == {None}
    assert "3 sources, 4 references" in result.stdout
    assert "1 sources were too long, and skipped" in result.stdout


def test_a_service_is_judged_without_tensorflow(tmp_path: Path) -> None:
    """The scripted backend echoes: against the sources themselves it is perfect, as it says too when it scores them."""
    texts = ["what is it", "no one said so", "말길이 좋다", "the words"]
    data = write_pairs(tmp_path / "pairs.tsv", [(text, text) for text in texts])
    code = (
        "import sys; from model_export.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "assert 'tensorflow' not in sys.modules"
    )
    with server_process("--backend", "scripted") as server:
        address = server.address()
        arguments = ["evaluate", f"{address}/echo", "--data", data, "--json", "-", "--batch-size", "3"]
        ran = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        limited = run(address, "--data", data, "--limit", "2", "--tokenize", "char")
        refused = run(address, "--data", data, "--beam-size", "99")

    assert (ran.returncode, ran.stderr) == (0, "")
    facts = json.loads(ran.stdout)
    (model,) = facts["models"]
    assert model["model"] == f"{address}/echo/1"
    assert (model["bleu"], model["chrf"], model["accuracy"]) == (pytest.approx(100.0), 100.0, 1.0)
    assert 1 / 8 <= model["loss"] < 1 / 8 + 8 / 1024  # the log-probabilities of the script
    assert model["new_tokens"] == model["nats_per_character"] * sum(map(len, texts)) / model["loss"]
    assert limited.exit_code == 0
    assert "2 sources, 2 references" in limited.stdout
    assert "tok:char" in limited.stdout
    assert refused.exit_code == 1
    assert "beam_size" in refused.stderr
