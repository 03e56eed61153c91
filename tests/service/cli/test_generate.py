"""``malgil generate`` in this process, with servers that answer as a test says; as a process, see ``test_cli.py``."""

import json
import random
import time

import pytest
from typer.testing import CliRunner

from service.cli import app
from tests.support.stub_server import Reply, answer, echo, stub_server


def malgil(*arguments):
    """Output, errors and exit code of a command; the threads that it leaves are daemons."""
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def server():
    with stub_server(echo) as server:
        yield server


@pytest.fixture
def texts(tmp_path):
    def write(content):
        path = tmp_path / "texts.txt"
        path.write_bytes(content.encode())
        return path

    return write


def test_every_option_reaches_the_server(server):
    flags = (
        "--beam-size 3 --num-hypotheses 2 --max-new-tokens 9 --min-new-tokens 1 --length-penalty 0.5 --prefix p "
        "--do-sample --temperature 0.7 --top-k 5 --top-p 0.9 --seed 11 --repetition-penalty 1.2 "
        "--no-repeat-ngram-size 3 --disable-unk --stop x --stop 말 --truncate --details --json"
    )
    ran = malgil("generate", "--url", server.url, "--model", "m", "--version", "3", *flags.split(), "a")
    assert ran.exit_code == 0, ran.stderr
    parameters = {
        "beam_size": 3,
        "num_hypotheses": 2,
        "max_new_tokens": 9,
        "min_new_tokens": 1,
        "length_penalty": 0.5,
        "prefix": "p",
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.9,
        "seed": 11,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "disable_unk": True,
        "stop": ["x", "말"],
        "truncate": True,
        "details": True,
    }
    assert server.bodies == [{"model": "m", "version": 3, "inputs": ["a"], "parameters": parameters}]
    assert json.loads(ran.stdout)["seed"] == 11


def test_nothing_is_sent_that_was_not_given(server):
    malgil("generate", "--url", server.url, "--version", "stable", "a")
    assert server.bodies == [{"version": "stable", "inputs": ["a"], "parameters": {}}]


@pytest.mark.parametrize(
    ("flags", "written"),
    [
        ("", "a\tb\\n\n\n말😀\n\n"),
        ("--num-hypotheses 2", "a\tb\\n\na\tb\\n 1\n\n\n말😀\n말😀 1\n\n\n"),
        ("--tsv", "a\\tb\\\\n\ta\\tb\\\\n\n\t\n말😀\t말😀\n \t\n"),
        (
            "--tsv --num-hypotheses 2",
            "a\\tb\\\\n\ta\\tb\\\\n\t1\t-1.5\na\\tb\\\\n\ta\\tb\\\\n 1\t2\t-2.5\n\t\t1\t\n\t\t2\t\n"
            "말😀\t말😀\t1\t-1.5\n말😀\t말😀 1\t2\t-2.5\n \t\t1\t\n \t\t2\t\n",
        ),
    ],
)
def test_lines_in_and_lines_out(server, texts, flags, written):
    path = texts("\ufeffa\tb\\n\r\n\r\n말😀\n ")
    ran = malgil("generate", "--url", server.url, "--input", path, *flags.split())
    assert ran.stdout == written
    assert ran.stderr == "2 empty lines, left empty\n"
    assert [body["inputs"] for body in server.bodies] == [["a\tb\\n", "말😀"]]


def test_json_lines_tell_of_every_line(server, texts):
    ran = malgil("generate", "--url", server.url, "--input", texts("a\n\n"), "--json")
    first, empty = map(json.loads, ran.stdout.splitlines())
    assert (first["input"], first["generated_text"], first["warnings"]) == ("a", "a", [])
    assert empty == {"input": "", "generated_text": "", "hypotheses": []}


def test_an_answer_with_line_ends_stays_one_line():
    output = {"hypotheses": [{"text": "a\nb\r\tc", "score": -1.0}], "warnings": []}
    with stub_server(lambda path, body: answer([output])) as server:
        assert malgil("generate", "--url", server.url, "x").stdout == "a b \tc\n"
        assert malgil("generate", "--url", server.url, "x", "--tsv").stdout == "x\ta\\nb\\r\\tc\n"


def test_order_is_kept_whatever_the_server_is_quick_at(texts):
    chance = random.Random(3)

    def slowly(path, body):
        time.sleep(chance.random() / 50)
        return echo(path, body)

    lines = [str(number) if number % 7 else "" for number in range(300)]
    with stub_server(slowly) as server:
        ran = malgil(
            *("generate", "--url", server.url, "--parallel", 8, "--lines-per-call", 5),
            *("--input", texts("\n".join(lines))),
        )
    assert ran.stdout.splitlines() == lines
    assert all(len(body["inputs"]) <= 5 for body in server.bodies)


def test_samples_do_not_depend_on_calls_nor_on_empty_lines(server, texts):
    flags = "--url", server.url, "--do-sample", "--seed", 2**63 - 2, "--input"
    one = malgil("generate", *flags, texts("a\n\nb\nc\nd\n"), "--lines-per-call", 1).stdout
    two = malgil("generate", *flags, texts("a\n\nb\nc\nd\n"), "--lines-per-call", 3, "--parallel", 1).stdout
    assert one == two == f"a {2**63 - 2}\n\nb {2**63 - 1}\nc 0\nd 1\n"


def test_a_seed_is_drawn_once_and_told(server, texts):
    path = texts("a\nb\nc\n")
    ran = malgil("generate", "--url", server.url, "--do-sample", "--input", path, "--lines-per-call", 1)
    seed = int(ran.stderr.removeprefix("sampling with --seed "))
    again = malgil("generate", "--url", server.url, "--do-sample", "--seed", seed, "--input", path)
    assert ran.stdout == again.stdout
    assert {int(line.split()[1]) - seed for line in again.stdout.splitlines()} == {0, 1, 2}
    assert malgil("generate", "--url", server.url, "--do-sample", "a").stderr != ran.stderr


class Fragile:
    """A server that fails from its ``falls``-th call on, until it is mended."""

    def __init__(self, falls, reply):
        self.falls = falls
        self.reply = reply
        self.calls = 0

    def __call__(self, path, body):
        self.calls += 1
        return self.reply if self.falls is not None and self.calls >= self.falls else echo(path, body)


@pytest.mark.parametrize("flags", ["--do-sample", "--tsv", "--json --num-hypotheses 2 --do-sample --seed 5"])
def test_a_run_that_failed_is_completed_as_if_it_had_not(texts, tmp_path, flags):
    path, out = texts("\n".join(f"line {number}" if number % 4 else "" for number in range(50))), tmp_path / "out"
    command = "generate", "--input", path, "--lines-per-call", 3, "--parallel", 2, *flags.split(), "--url"
    fragile = Fragile(6, Reply({"error": "it broke", "error_type": "generation"}, 502))
    with stub_server(fragile) as server:
        failed = malgil(*command, server.url, "--output", out)
        assert failed.exit_code == 1
        *_, error, advice = failed.stderr.splitlines()
        assert error.startswith("error: line ")
        assert error.endswith("it broke")
        assert "lines done; go on with: malgil " in advice
        done = out.read_text().splitlines()
        assert 0 < len(done) < 100
        seed = json.loads((tmp_path / "out.resume").read_text())["work"].get("seed")
        fragile.falls = None
        assert malgil(*command, server.url, "--output", out, "--resume").exit_code == 0
        given = ["--seed", seed] if seed is not None and "--seed" not in flags else []
        whole = malgil(*command, server.url, *given).stdout
    assert out.read_text() == whole
    assert not (tmp_path / "out.resume").exists()


def test_a_file_is_neither_overwritten_nor_read_and_written(server, texts, tmp_path):
    path, out = texts("a\n"), tmp_path / "out"
    command = "generate", "--url", server.url, "--input", path, "--output"
    assert malgil(*command, out).exit_code == 0
    again = malgil(*command, out)
    assert (again.exit_code, again.stderr) == (
        2,
        f"error: {out} exists: name another file, or overwrite it with --force\n",
    )
    assert malgil(*command, out, "--force").exit_code == 0
    same = malgil(*command, path, "--force")
    assert (same.exit_code, path.read_text()) == (2, "a\n")
    assert "are the same file" in same.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--input", "b"], "choose one of them"),
        (["a", "--tsv", "--json"], "exclude each other"),
        (["a", "--details"], "only with --json"),
        (["a", "--resume"], "--resume needs --output FILE"),
        (["a", "--force", "--output", "-"], "--force needs --output FILE"),
        (["a", "--force", "--resume", "--output", "b"], "give one of them"),
        (["--input", "/nowhere/to/be/found"], "/nowhere/to/be/found: No such file or directory"),
        (["a", "--output", "/nowhere/to/be/found"], "/nowhere/to/be/found: No such file or directory"),
        (["a", "--seed", "-1"], "--seed': Input should be greater than or equal to 0"),
        (["a", "--parallel", "0"], "--parallel': Input should be greater than or equal to 1"),
    ],
)
def test_bad_usage(arguments, message):
    ran = malgil("generate", "--url", "http://127.0.0.1:1", *arguments)
    assert ran.exit_code == (1 if "No such file" in message else 2)
    assert message in ran.stderr
    assert ran.stdout == ""


def test_what_is_wrong_is_told_of_its_line(texts):
    def refuse(path, body):
        if "bad" in body["inputs"]:
            found = body["inputs"].index("bad")
            return Reply({"error": f"'inputs[{found}]' has 600 tokens", "error_type": "validation"}, 422)
        if "huge" in body["inputs"]:
            return Reply({"error": "too many bytes", "error_type": "too_large"}, 413)
        return echo(path, body)

    with stub_server(refuse) as server:
        command = "generate", "--url", server.url, "--lines-per-call", 4
        path = texts("a\n\nb\nc\n\nd\nbad\ne\n")
        ran = malgil(*command, "--input", path)
        assert (ran.exit_code, ran.stdout) == (2, "a\n\nb\nc\n")
        assert ran.stderr == f"error: line 7 of {path} has 600 tokens\n"
        assert malgil(*command, "a", "bad").stderr == "error: text 2 has 600 tokens\n"
        path = texts("a\nb\nc\nd\ne\nhuge\n")
        assert malgil(*command, "--input", path).stderr == (
            f"error: line 5 of {path} and the 1 after it: too many bytes\n"
        )


def test_warnings_and_a_change_of_version_are_told_at_the_end(texts):
    def respond(path, body):
        (text,) = body["inputs"]
        warnings = ["input cut by 3 tokens"] if text in "bc" else []
        return answer([{"hypotheses": [{"text": text, "score": -1.0}], "warnings": warnings}], 1 + (text > "b"))

    path = texts("a\nb\nc\n")
    with stub_server(respond) as server:
        ran = malgil("generate", "--url", server.url, "--lines-per-call", 1, "--input", path)
    assert ran.stdout == "a\nb\nc\n"
    assert ran.stderr.splitlines() == [
        f"2 answers with warnings, shown by --json; the first: line 2 of {path}: input cut by 3 tokens",
        "the answers are of version 1 of stub and version 2 of stub",
    ]


def test_a_busy_server_is_waited_for():
    replies = iter([Reply({"error": "full", "error_type": "overloaded"}, 429, {"retry-after": "1"})])
    with stub_server(lambda path, body: next(replies, None) or echo(path, body)) as server:
        ran = malgil("generate", "--url", server.url, "a")
    assert (ran.stdout, ran.stderr, ran.exit_code) == ("a\n", "", 0)
    assert len(server.bodies) == 2
