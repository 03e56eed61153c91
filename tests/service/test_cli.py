"""``malgil`` as a process: output, errors of one line, exit codes."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.settings import Settings
from tests.support.server_process import REPOSITORY, server_process
from tests.support.stub_server import echo, stub_server


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


def here(*arguments):
    """The same without a process of its own, which is quicker."""
    ran = CliRunner().invoke(app, arguments)
    return subprocess.CompletedProcess(arguments, ran.exit_code, ran.stdout, ran.stderr)


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
    ran = malgil("generate", "--url", address, stdin="word\n\n" * 35 + "word " * 600)
    assert ran.returncode == 2
    assert ran.stdout == "word\n\n" * 32
    assert ran.stderr.startswith("error: line 71 has 600 tokens, and the model reads at most 511: ")


class Slow:
    """A server that holds back its answers behind the first ``free`` calls until it is let go."""

    def __init__(self, free):
        self.free = threading.Semaphore(free)
        self.reached = threading.Event()
        self.released = threading.Event()

    def __call__(self, path, body):
        if not self.free.acquire(blocking=False) and not self.released.is_set():
            self.reached.set()
            self.released.wait(60)
        return echo(path, body)


def started(*arguments, **streams):
    command = [sys.executable, "-m", "service", *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, **streams)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_is_gone_on_with(tmp_path, end):
    source, out, slow = tmp_path / "texts", tmp_path / "answers.tsv", Slow(12)
    source.write_text("".join(f"말 {number}\n\n" for number in range(100)))
    command = "generate", "--tsv", "--do-sample", "--input", source, "--output", out, "--lines-per-call", 7
    with stub_server(slow) as server:
        process = started(*command, "--parallel", 3, "--url", server.url)
        assert slow.reached.wait(60)
        while not out.exists() or out.read_text().count("\n") < 60:  # of 84, as three calls may overtake each other
            time.sleep(0.01)
        process.send_signal(end)
        code = process.wait(20)  # although a call is not answered
        _, *lines = process.stderr.read().splitlines()
        process.stderr.close()
        if end != signal.SIGKILL:
            assert code == 1
            assert lines[0] == "stopped"
            assert re.match(r"\d+ lines done; go on with: malgil generate --resume --tsv ", lines[1])
        slow.released.set()
        seed = json.loads((tmp_path / "answers.tsv.resume").read_text())["work"]["seed"]
        ran = malgil(*map(str, command), "--resume", "--url", server.url)
        assert (ran.returncode, ran.stdout) == (0, "")
    texts = (f"말 {number}" for number in range(100))
    assert out.read_text() == "".join(
        f"{text}\t{text} {(seed + number) % 2**63}\n\t\n" for number, text in enumerate(texts)
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["answers.tsv", "texts"]


def test_a_server_that_goes_leaves_what_it_answered(tmp_path):
    source, out = tmp_path / "texts", tmp_path / "answers"
    source.write_text("the word\n" * 40_000)
    with server_process("--backend", "scripted") as server:
        process = started("generate", "--input", source, "--output", out, "--url", server.address())
        while not out.exists() or not out.stat().st_size:
            time.sleep(0.01)
        server.process.kill()
        code = process.wait(60)
    error, advice = process.stderr.read().splitlines()
    process.stderr.close()
    assert code == 1
    assert error.startswith("error: no answer from ")
    done = out.read_text()
    assert 0 < len(done) < source.stat().st_size
    assert done == "the word\n" * int(advice.split()[0].replace(",", ""))


def test_a_reader_that_leaves_is_no_error_to_tell(address):
    with started(
        "generate", "--url", address, "--input", "/dev/stdin", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdin.write("word\n" * 2000)
        process.stdin.close()
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


def test_progress_is_a_bar_on_a_terminal_while_answers_go_elsewhere(tmp_path):
    source, slow = tmp_path / "texts", Slow(2)
    source.write_text("a\n" * 100)
    terminal, theirs = pty.openpty()
    with stub_server(slow) as server, (tmp_path / "out").open("w") as stdout:
        arguments = ["generate", "--url", server.url, "--input", str(source), "--parallel", "1"]
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *arguments],
            cwd=REPOSITORY,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
            stdout=stdout,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        while b" 64/100" not in shown:
            shown += os.read(terminal, 4096)
        slow.released.set()
        with suppress(OSError):  # how the end of a terminal is told
            while os.read(terminal, 4096):
                pass
        assert process.wait(60) == 0
    os.close(terminal)
    assert (tmp_path / "out").read_text() == "a\n" * 100


def test_options_reach_the_model_and_json_has_everything(address):
    options = ["--beam-size", "3", "--num-hypotheses", "2", "--max-new-tokens", "2", "--details", "--json"]
    ran = here("generate", "--url", address, *options, "the word says no")
    (output,) = map(json.loads, ran.stdout.splitlines())
    assert output["input"] == "the word says no"
    assert [each["finish_reason"] for each in output["hypotheses"]] == ["length", "length"]
    assert [len(each["tokens"]) for each in output["hypotheses"]] == [2, 2]
    both = here("generate", "--url", address, "--beam-size", "3", "--num-hypotheses", "2", "the word").stdout
    assert both.splitlines() == ["the word", "word the"]


def test_samples_are_the_same_however_lines_are_put_together(address, tmp_path):
    (tmp_path / "texts").write_text("the word says no\n\n" * 6)
    command = "generate", "--url", address, "--json", "--do-sample", "--input", str(tmp_path / "texts")
    drawn = here(*command, "--lines-per-call", "1")
    seed = drawn.stderr.removeprefix("sampling with --seed ").split()[0]
    assert here(*command, "--seed", seed, "--lines-per-call", "5").stdout == drawn.stdout
    outputs = [json.loads(line) for line in drawn.stdout.splitlines()]
    assert [output.get("seed") for output in outputs[::2]] == [(int(seed) + row) % 2**63 for row in range(6)]
    assert len({output["score"] for output in outputs[::2]}) > 1


def test_what_is_generated_can_be_scored(address, tmp_path):
    texts, pairs = tmp_path / "texts", tmp_path / "pairs.tsv"
    texts.write_text("the word\n\n말 a\tb\n😀 \\t\n")
    command = "generate", "--url", address, "--input", str(texts)
    generated = [json.loads(line) for line in here(*command, "--json").stdout.splitlines()]
    assert here(*command, "--tsv", "--output", str(pairs)).returncode == 0
    scored = here("score", "--url", address, "--input", str(pairs)).stdout.splitlines()
    assert scored[1] == "\t"
    assert [tuple(map(float, line.split("\t"))) for line in scored if line != "\t"] == [
        (pytest.approx(output["score"]), pytest.approx(output["perplexity"]))
        for output in generated
        if output["generated_text"]
    ]
    (aligned,) = here("score", "--url", address, "--json", "--details", "--align", "a", "the word").stdout.splitlines()
    assert {"tokens", "input_pieces", "alignment"} <= json.loads(aligned).keys()


def test_a_version_is_a_number_or_a_label(address):
    assert here("generate", "--url", address, "--version", "1", "the word").stdout == "the word\n"
    _, message = failure(here("generate", "--url", address, "--version", "2", "a"))
    assert message == "model 'echo' has no version 2, but 1"
    _, message = failure(here("generate", "--url", address, "--version", "stable", "a"))
    assert message.startswith("model 'echo' has no label 'stable'")


def test_what_the_server_finds_wrong_is_bad_usage(address):
    code, message = failure(here("generate", "--url", address, "--beam-size", "99", "a"))
    assert code == 2
    assert message.startswith("'beam_size' must be an integer from 1 to 8")
    code, message = failure(here("generate", "--url", address, "--model", "none", "a"))
    assert (code, message) == (1, "there is no model 'none': name one of echo")


def test_no_server_is_one_line():
    code, message = failure(here("generate", "--url", "http://127.0.0.1:1", "a"))
    assert code == 1
    assert message.startswith("no answer from http://127.0.0.1:1: ")
    assert failure(here("generate", "--url", "localhost:8000", "a"))[0] == 2


def test_models_can_be_run_without_a_server(artifact_root, tmp_path):
    (tmp_path / "tiny").symlink_to(artifact_root / "tiny-rnn")
    ran = malgil("generate", "--models", str(tmp_path), "--json", "a cat", "le chat")
    outputs = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [output["input"] for output in outputs] == ["a cat", "le chat"]
    assert all(output["generated_tokens"] > 0 for output in outputs)
    assert ran.stderr == ""
