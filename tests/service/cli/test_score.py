"""``malgil score`` with a server that answers as a test says."""

import json

import pytest
from typer.testing import CliRunner

from service.cli import app
from tests.support.stub_server import Reply, answer, stub_server


def score(path, body):
    """Of a pair, minus its target's length; ``/v1/score`` in the shape of ours."""
    assert path == "/v1/score"
    outputs = []
    for index, (source, target) in enumerate(zip(body["inputs"], body["targets"], strict=True)):
        if source == "bad" or target == "bad":
            of = "inputs" if source == "bad" else "targets"
            return Reply({"error": f"'{of}[{index}]' is bad", "error_type": "validation"}, 422)
        output = {
            "score": -float(len(target)),
            "perplexity": 2.0,
            "input_tokens": 1,
            "target_tokens": 1,
            "warnings": [],
        }
        if body["parameters"].get("details"):
            output["tokens"] = [{"id": 5, "piece": target, "log_prob": -1.0, "rank": 0}]
        if body["parameters"].get("align"):
            output |= {"input_pieces": [source], "alignment": [[1.0]]}
        outputs.append(output)
    return answer(outputs)


@pytest.fixture
def server():
    with stub_server(score) as server:
        yield server


@pytest.fixture
def pairs(tmp_path):
    def write(content):
        path = tmp_path / "pairs.tsv"
        path.write_bytes(content.encode())
        return path

    return write


def malgil(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_a_pair_of_arguments(server):
    ran = malgil("score", "--url", server.url, "--model", "m", "--truncate", "Be\tnice.", "좋다")
    assert (ran.stdout, ran.stderr, ran.exit_code) == ("-2.0\t2.0\n", "", 0)
    assert server.bodies == [
        {"model": "m", "inputs": ["Be\tnice."], "targets": ["좋다"], "parameters": {"truncate": True}}
    ]


def test_lines_of_pairs_keep_their_order_and_their_empty_ones(server, pairs):
    path = pairs("\ufeffa\\tb\t말길\r\n\r\n\t\nx\t\ny\tz\\\\n\tthird\t\n")
    ran = malgil("score", "--url", server.url, "--input", path)
    assert ran.stdout == "-2.0\t2.0\n\t\n\t\n-0.0\t2.0\n-3.0\t2.0\n"
    assert ran.stderr == "2 empty lines, left empty\n"
    (body,) = server.bodies
    assert (body["inputs"], body["targets"]) == (["a\tb", "x", "y"], ["말길", "", "z\\n"])


def test_json_shows_tokens_and_alignment(server, pairs):
    flags = "--json", "--details", "--align"
    ran = malgil("score", "--url", server.url, *flags, "--input", pairs("a\tb\n\n"))
    scored, empty = map(json.loads, ran.stdout.splitlines())
    assert (scored["input"], scored["target"], scored["score"]) == ("a", "b", -1.0)
    assert scored["tokens"][0]["rank"] == 0
    assert (scored["input_pieces"], scored["alignment"]) == (["a"], [[1.0]])
    assert empty == {"input": "", "target": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\n\nno tab\n", "line 3 of {path} has no tab between a source and a target"),
        ("a\tb\n\nbad\tb\n", "the source in line 3 of {path} is bad"),
        ("a\tb\n\na\tbad\n", "the target in line 3 of {path} is bad"),
    ],
)
def test_what_is_wrong_is_told_of_its_line(server, pairs, content, message):
    path = pairs(content)
    ran = malgil("score", "--url", server.url, "--lines-per-call", 2, "--input", path)
    assert (ran.exit_code, ran.stdout) == (2, "-1.0\t2.0\n\t\n")
    assert ran.stderr == f"error: {message.format(path=path)}\n"


def test_scores_are_gone_on_with(pairs, tmp_path):
    path, out, fails = pairs("".join(f"{n}\t{n}\n" for n in range(20))), tmp_path / "scores.tsv", [True]

    def respond(path, body):
        return Reply(b"", 500) if fails and "12" in body["inputs"] else score(path, body)

    with stub_server(respond) as server:
        command = "score", "--url", server.url, "--input", path, "--lines-per-call", 3
        assert malgil(*command, "--output", out).exit_code == 1
        assert out.read_text().count("\n") == 12
        other = malgil(*command, "--output", out, "--resume", "--json")
        assert 'format: "tsv" then, "json" now' in other.stderr
        fails.clear()
        assert malgil(*command, "--output", out, "--resume").exit_code == 0
        assert out.read_text() == malgil(*command).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "1 arguments were given, not 2"),
        (["a", "b", "--input", "c"], "choose one of them"),
        (["a", "b", "--details"], "--details shows only with --json"),
        (["a", "b", "--align"], "--align shows only with --json"),
    ],
)
def test_bad_usage(arguments, message):
    ran = malgil("score", "--url", "http://127.0.0.1:1", *arguments)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert message in ran.stderr
