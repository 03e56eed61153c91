"""The README and the pages of docs/ name only what exists, and what they show is so."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from model_export.cli import app as export_app
from model_export.config import load_config
from service.cli import app as serve_app
from service.settings import Settings
from tests.support.rest_client import rest_server
from tests.support.server_process import server_process

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *(REPOSITORY / "docs").rglob("*.md")])
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
APPS = {"malgil": typer.main.get_command(serve_app), "malgil-export": typer.main.get_command(export_app)}


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The lines of shell blocks, split into words; a quoted argument may span lines."""
    lines = "".join(blocks(text, "sh") + blocks(text, "console"))
    found: list[list[str]] = [[]]
    lexer = shlex.shlex(lines, posix=True, punctuation_chars=";|&<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    for word in lexer:
        if set(word) <= set(";|&\n"):
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


ALL_COMMANDS = [(page.name, words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]


def test_every_command_of_the_documents_exists() -> None:
    unknown = []
    programs = set()
    for page, words in ALL_COMMANDS:
        program = words[0].removeprefix(".venv/bin/")
        programs.add(program)
        if program in APPS:
            subcommands: dict[str, Any] = APPS[program].commands
            if words[1] not in subcommands:
                unknown.append((page, words))
                continue
            command = subcommands[words[1]]
            if hasattr(command, "commands"):  # a group of them, such as `malgil rollout`
                command = command.commands[words[2]]
            known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
            unknown += [(page, word) for word in words[2:] if word.startswith("--") and word not in known]
        elif program == "make":
            makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
            unknown += [(page, w) for w in words[1:] if "=" not in w and not re.search(rf"^{w}:", makefile, re.M)]

    assert unknown == []
    assert {"malgil", "malgil-export", "make", "curl"} <= programs


def test_every_flag_and_command_in_running_text_exists() -> None:
    """Inline code such as `malgil-export inspect` or `make lock`."""
    unknown = []
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for code in re.findall(r"`((?:malgil|malgil-export|make) [a-z][^`]*)`", page.read_text(encoding="utf-8")):
            program, command, *_ = code.split()
            exists = (
                command in APPS[program].commands if program in APPS else re.search(rf"^{command}:", makefile, re.M)
            )
            if not exists:
                unknown.append((page.name, code))

    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_json_and_yaml_blocks_parse() -> None:
    documents = [page.read_text(encoding="utf-8") for page in PAGES]

    assert [json.loads(block) for text in documents for block in blocks(text, "json")]
    assert None not in [yaml.safe_load(block) for text in documents for block in blocks(text, "yaml")]


def test_every_page_is_reached_from_the_readme() -> None:
    pages = [page for page in PAGES if page.parent == REPOSITORY / "docs"]

    assert len(pages) >= 4
    assert [page.name for page in pages if f"](docs/{page.name})" not in README] == []


def test_tf_serving_is_started_with_the_flags_that_are_kept_for_it() -> None:
    """``docker/tf-serving.flags`` is what composes and manifests start it with, and the page explains it."""
    flags = (REPOSITORY / "docker" / "tf-serving.flags").read_text(encoding="utf-8").splitlines()
    page = (REPOSITORY / "docs" / "tf-serving.md").read_text(encoding="utf-8")
    (shown,) = [block for block in blocks(page, "sh") if block.startswith("tensorflow_model_server")]
    cores = Settings.model_fields["tf_serving_concurrent_runs"].default

    assert shlex.split(shown.replace("\\\n", " "))[1:] == [
        "--port=8500",
        "--model_config_file=/etc/models.config",
        *flags,
    ]
    assert f"--tensorflow_intra_op_parallelism={Settings.model_fields['intra_op_threads'].default}" in flags
    assert f"--tensorflow_inter_op_parallelism={cores}" in flags
    assert [flag for flag in flags if f"`{flag.partition('=')[0]}" not in page] == []


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = [int(page.name[:4]) for page in PAGES if page.parent.name == "decisions"]

    assert numbers == list(range(1, len(numbers) + 1))


# --- what the README shows --------------------------------------------------------------------------------------------


def test_the_requests_of_the_readme_are_answered_in_the_shape_it_shows() -> None:
    (shown,) = [json.loads(block) for block in blocks(README, "json")]
    requests = [json.loads(words[words.index("--data") + 1]) for words in commands(README) if words[0] == "curl"]
    assert len(requests) == 2

    async def ask() -> list[dict[str, Any]]:
        async with rest_server() as server:
            answers = [await server.client.post("/v1/generate", json={**each, "model": "echo"}) for each in requests]
        assert [answer.status_code for answer in answers] == [200, 200]
        return [answer.json() for answer in answers]

    for answer in asyncio.run(ask()):
        assert answer.keys() == shown.keys()
        (output,), (shown_output,) = answer["outputs"], shown["outputs"]
        assert output.keys() == shown_output.keys()
        assert output["hypotheses"][0].keys() == shown_output["hypotheses"][0].keys()


@pytest.mark.parametrize("page", ["README.md", "docs/grpc.md"])
def test_the_python_that_is_shown_runs(page: str) -> None:
    (code,) = blocks((REPOSITORY / page).read_text(encoding="utf-8"), "python")
    with server_process("--backend", "scripted") as server:
        code = code.replace("127.0.0.1:9000", server.rpc_address()).replace("en-fr", "echo")
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )

    if page == "README.md":
        assert len([line for line in code.splitlines() if line]) == 5
        assert ran.stdout == "I am tired.\n"
    else:
        assert ran.stdout.startswith("['Be nice.', 'Get out!'] {'x-request-id': 'mine-1', ")


def test_the_readmes_answer_is_the_shipped_models() -> None:
    from model_export.generation import generate, opened

    (shown,) = [json.loads(block) for block in blocks(README, "json")]
    (request,) = [words for words in commands(README) if words[0] == "curl" and "en-fr" in words[-1]]
    with opened(REPOSITORY / "models" / "en-fr") as signatures:
        (answer,) = generate(signatures.generate, [json.loads(request[-1])["inputs"]], {})

    (output,) = shown["outputs"]
    assert answer.sentences == (output["generated_text"],)
    assert len(answer.ids[0]) == output["generated_tokens"]
    assert answer.scores[0] == pytest.approx(output["score"], abs=0.006)


def test_the_example_is_a_valid_run_whose_question_is_unseen() -> None:
    config = load_config(str(REPOSITORY / "docs" / "examples" / "numbers.yaml"))
    lines = (REPOSITORY / "docs" / "examples" / "numbers.tsv").read_text(encoding="utf-8").splitlines()
    sources = [line.split("\t")[0] for line in lines]

    assert config.training.epochs < 50
    assert len(set(sources)) == len(lines) == 2000
    assert "2,000" in README
    assert "7342" in README
    assert "7342" not in sources
