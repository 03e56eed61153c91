"""``malgil`` as a process: output, errors of one line, exit codes."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest

from service.settings import Settings
from tests.support.server_process import REPOSITORY, server_process


@pytest.fixture(scope="module")
def address():
    with server_process("--backend", "scripted") as server:
        yield server.address()


def malgil(*arguments, stdin="", **environment):
    """Output, errors and exit code of a command."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALGIL_")}
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        check=False,
        cwd=REPOSITORY,
        env=clean | {"MALGIL_GRPC_PORT": "0"} | environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


def failure(ran):
    """Exit code and the one line of an error."""
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    return ran.returncode, line.removeprefix("error: ")


def test_importing_the_cli_and_what_it_runs_loads_no_tensorflow():
    code = (
        "import sys, service.cli, service.client\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('tensorflow', 'tensorflow_text', 'keras')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_settings_are_shown_as_environment_variables_and_flags_win():
    ran = malgil("serve", "--print-settings", "--port", "81", MALGIL_PORT="80", MALGIL_MAX_BATCH_ROWS="7")
    shown = dict(line.split("=", 1) for line in ran.stdout.splitlines())
    assert shown.keys() == {f"MALGIL_{name.upper()}" for name in Settings.model_fields}
    assert (shown["MALGIL_PORT"], shown["MALGIL_MAX_BATCH_ROWS"]) == ("81", "7")
    assert malgil("serve", "--print-settings", **shown).stdout == ran.stdout


def test_every_setting_has_a_flag_with_its_description():
    shown = " ".join(malgil("serve", "--help").stdout.split())
    for name, field in Settings.model_fields.items():
        flag = "--models" if name == "models_folder" else "--" + name.replace("_", "-")
        assert f" {flag} " in shown
        assert field.description.split(":")[0] in shown


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--port", "abc"], r"--port \(or MALGIL_PORT\): input should be a valid integer"),
        (["--port", "70000"], r"--port \(or MALGIL_PORT\): input should be less than or equal to 65535"),
        (
            ["--backend", "cloud"],
            r"--backend \(or MALGIL_BACKEND\): input should be 'embedded', 'tf-serving' or 'scripted'",
        ),
        (["--max-inputs", "5000"], "max_inputs 5000 exceeds queue_rows 2048"),
    ],
)
def test_wrong_settings_are_bad_usage(arguments, line):
    code, message = failure(malgil("serve", *arguments))
    assert code == 2
    assert re.match(line, message)


def test_a_missing_folder_of_models_is_one_line(tmp_path):
    code, message = failure(malgil("serve", "--port", "0", "--models", str(tmp_path / "none")))
    assert (code, message) == (1, f"the models folder {tmp_path / 'none'} cannot be read: No such file or directory")
    code, message = failure(malgil("generate", "--models", str(tmp_path), "a"))
    assert code == 1
    assert message.startswith(f"no model in {tmp_path}: ")


def test_a_port_in_use_is_one_line(address):
    port = address.rsplit(":", 1)[1]
    code, message = failure(malgil("serve", "--backend", "scripted", "--port", port))
    assert (code, message) == (
        1,
        f"cannot listen on 127.0.0.1:{port}: Address already in use; see --host and --port",
    )


def test_a_port_in_use_for_grpc_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, message = failure(malgil("serve", "--backend", "scripted", "--port", "0", "--grpc-port", port))
    assert (code, message) == (
        1,
        f"cannot listen on 127.0.0.1:{port}: Address already in use; see --host and --grpc-port",
    )


def test_debug_shows_the_traceback(tmp_path):
    ran = malgil("serve", "--port", "0", "--models", str(tmp_path), "--debug")
    assert ran.returncode == 1
    assert "Traceback (most recent call last)" in ran.stderr


def test_texts_are_answered_line_by_line(address):
    ran = malgil("generate", "--url", address, "the word", "말길")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "the word\n말길\n", "")


def test_lines_of_standard_input_keep_their_order(address):
    lines = [f"word {number}" for number in range(100)]
    ran = malgil("generate", "--url", address, stdin="\n".join(lines))
    assert ran.stdout.splitlines() == lines


def test_lines_may_end_as_on_windows(address):
    ran = malgil("generate", "--url", address, "--json", stdin="the word\r\nno\r\n")
    assert [json.loads(line)["input"] for line in ran.stdout.splitlines()] == ["the word", "no"]


def test_a_wrong_line_is_named_by_its_place_among_all(address):
    ran = malgil("generate", "--url", address, stdin="word\n" * 70 + "\n")
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: 'inputs[70]' ")


def test_options_reach_the_model_and_json_has_everything(address):
    options = ["--beam-size", "3", "--num-hypotheses", "2", "--max-new-tokens", "2", "--details", "--json"]
    ran = malgil("generate", "--url", address, *options, "the word says no")
    (output,) = map(json.loads, ran.stdout.splitlines())
    assert output["input"] == "the word says no"
    assert [each["finish_reason"] for each in output["hypotheses"]] == ["length", "length"]
    assert [len(each["tokens"]) for each in output["hypotheses"]] == [2, 2]
    both = malgil("generate", "--url", address, "--beam-size", "3", "--num-hypotheses", "2", "the word").stdout
    assert both.splitlines() == ["the word", "word the"]


def test_a_version_is_a_number_or_a_label(address):
    assert malgil("generate", "--url", address, "--version", "1", "the word").stdout == "the word\n"
    _, message = failure(malgil("generate", "--url", address, "--version", "2", "a"))
    assert message == "model 'echo' has no version 2, but 1"
    _, message = failure(malgil("generate", "--url", address, "--version", "stable", "a"))
    assert message.startswith("model 'echo' has no label 'stable'")


def test_what_the_server_finds_wrong_is_bad_usage(address):
    code, message = failure(malgil("generate", "--url", address, "--beam-size", "99", "a"))
    assert code == 2
    assert message.startswith("'beam_size' must be an integer from 1 to 8")
    code, message = failure(malgil("generate", "--url", address, "--model", "none", "a"))
    assert (code, message) == (1, "there is no model 'none': name one of echo")


def test_no_server_is_one_line():
    code, message = failure(malgil("generate", "--url", "http://127.0.0.1:1", "a"))
    assert code == 1
    assert message.startswith("no answer from http://127.0.0.1:1: ")
    assert failure(malgil("generate", "--url", "localhost:8000", "a"))[0] == 2


def test_models_can_be_run_without_a_server(artifact_root, tmp_path):
    (tmp_path / "tiny").symlink_to(artifact_root / "tiny-rnn")
    ran = malgil("generate", "--models", str(tmp_path), "--json", "a cat", "le chat")
    outputs = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [output["input"] for output in outputs] == ["a cat", "le chat"]
    assert all(output["generated_tokens"] > 0 for output in outputs)
    assert ran.stderr == ""
