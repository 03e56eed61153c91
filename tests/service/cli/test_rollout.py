"""``malgil rollout`` against gateways that run, with labels in a file and in a ConfigMap."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.backend import VersionState
from service.cli import app
from service.engine.labels import parse_labels
from tests.support.gateway import MODEL, TestGateway, gateway

SETTLED = "en-fr: {stable: 3, canary: 3, default: 3, previous: 3}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.yaml"
    path.write_text(SETTLED)
    return path


@pytest.fixture
def one(file: Path) -> Iterator[TestGateway]:
    with gateway(file, 3, 4) as running:
        yield running


def malgil(*arguments: object):
    ran = CliRunner().invoke(app, ["rollout", *map(str, arguments)])
    return ran.exit_code, ran.stdout, ran.stderr


def labels(file: Path) -> dict:
    return parse_labels(file.read_text())[MODEL]


def test_a_rollout_from_the_first_look_to_going_back(one: TestGateway, file: Path) -> None:
    where = "--labels", file, "--url", one.url
    code, shown, _ = malgil("status", *where)
    assert code == 0
    assert shown.splitlines() == [
        "en-fr",
        "  version 4: ready",
        "  version 3: ready",
        "  stable: 3",
        "  canary: 3",
        "  default: 3",
        "  previous: 3",
        "  may be removed: 4",
    ]
    code, shown, _ = malgil("promote", MODEL, 4, "--to", "canary", "--share", 12.5, *where)
    assert (code, shown.splitlines()) == (
        0,
        [
            f"written to {file}: stable 3, canary 4, default 3 (87.5 %), 4 (12.5 %), previous 3",
            "in force at 1 gateway",
        ],
    )
    assert "  default: 3 (87.5 %), 4 (12.5 %)" in malgil("status", MODEL, *where)[1].splitlines()
    assert malgil("promote", MODEL, *where)[0] == 0
    assert labels(file) == {"stable": {4: 1}, "canary": {4: 1}, "default": {4: 1}, "previous": {3: 1}}
    assert malgil("rollback", MODEL, *where)[0] == 0
    assert labels(file) == {label: {3: 1} for label in ("stable", "canary", "default", "previous")}
    assert malgil("rollback", MODEL, *where) == (
        1,
        "",
        "error: before version 3 nothing was stable that is kept: promote the version that you want to stable\n",
    )


def test_status_says_what_has_not_moved(one: TestGateway, file: Path, tmp_path: Path) -> None:
    one.set_state(4, VersionState.REFUSED, "2 goldens differ")
    ahead = tmp_path / "ahead.yaml"
    ahead.write_text(SETTLED.replace("stable: 3", "stable: 4"))
    code, shown, _ = malgil("status", "--labels", ahead, "--url", one.url)
    assert code == 1
    assert "  version 4: refused: 2 goldens differ" in shown.splitlines()
    assert f"  not yet: {one.url}: stable is 3, not 4" in shown.splitlines()
    code, shown, _ = malgil("status", "--json", "--url", one.url)
    assert code == 0
    assert json.loads(shown)["models"][MODEL]["labels"]["stable"] == {"3": [one.url]}


def test_status_tells_gateways_apart(one: TestGateway, file: Path) -> None:
    with gateway(None, 3) as other:
        code, shown, _ = malgil("status", "--url", one.url, "--server", other.url)
    assert code == 0
    assert f"  version 4: ready ({one.url})" in shown.splitlines()
    assert f"  stable: 3 ({one.url})" in shown.splitlines()


def test_a_gateway_that_is_down_is_told_and_keeps_nobody_from_going_back(one: TestGateway, file: Path) -> None:
    with gateway(file, 3, 4) as gone:
        pass
    where = "--labels", file, "--url", one.url, "--url", gone.url
    code, shown, _ = malgil("status", *where)
    assert code == 1
    assert shown.splitlines()[-1].startswith(f"error: no answer from {gone.url}: ")
    code, _, error = malgil("promote", MODEL, 4, *where)
    assert (code, error.startswith(f"error: no answer from {gone.url}: ")) == (1, True)
    assert file.read_text() == SETTLED
    assert malgil("promote", MODEL, 4, "--labels", file, "--url", one.url)[0] == 0
    code, shown, error = malgil("rollback", MODEL, "--no-wait", *where)
    assert code == 0
    assert error.startswith(f"warning: no answer from {gone.url}: ")
    assert labels(file)["stable"] == {3: 1}
    code, _, error = malgil("rollback", MODEL, "--labels", file, "--url", gone.url)
    assert (code, error.startswith(f"error: no answer from {gone.url}: ")) == (1, True)


def test_a_version_that_is_not_ready_is_refused_in_one_line(one: TestGateway, file: Path) -> None:
    one.set_state(4, VersionState.LOADING)
    ran = malgil("promote", MODEL, 4, "--to", "canary", "--labels", file, "--url", one.url)
    assert ran[:2] == (1, "")
    assert ran[2].startswith("error: canary cannot be 4: version 4 is loading")
    assert file.read_text() == SETTLED


def test_labels_that_do_not_come_to_hold_are_told_and_stay_written(one: TestGateway, file: Path) -> None:
    where = "--labels", file, "--url", one.url
    code, shown, error = malgil("promote", MODEL, 4, "--timeout", 0, *where)
    assert code == 1
    assert shown.startswith(f"written to {file}: ")
    assert error.splitlines()[-1].startswith("error: the labels are written, but after 0 s they do not hold everywhere")
    assert labels(file)["stable"] == {4: 1}


def test_no_wait_ends_with_writing(one: TestGateway, file: Path) -> None:
    code, shown, error = malgil("promote", MODEL, 4, "--no-wait", "--labels", file, "--url", one.url)
    assert (code, error) == (0, "")
    assert shown == f"written to {file}: stable 4, canary 4, default 4, previous 3\n"


def test_a_config_map_is_moved_through_kubectl(
    one: TestGateway, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway's file stands for the volume, in which the ConfigMap appears."""
    command = tmp_path / "kubectl"
    command.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        f"file = pathlib.Path({str(file)!r})\n"
        "assert '--namespace=malgil' in sys.argv, sys.argv\n"
        "if 'get' in sys.argv:\n"
        "    print(json.dumps({'kind': 'ConfigMap', 'data': {'labels.yaml': file.read_text()}}))\n"
        "else:\n"
        "    file.write_text(json.load(sys.stdin)['data']['labels.yaml'])\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    where = "--configmap", "malgil-labels", "--namespace", "malgil", "--url", one.url

    assert malgil("promote", MODEL, 4, *where) == (
        0,
        "written to ConfigMap malgil-labels: stable 4, canary 4, default 4, previous 3\nin force at 1 gateway\n",
        "",
    )
    assert malgil("status", *where)[0] == 0


def test_a_version_is_removed_once_nothing_needs_it(one: TestGateway, file: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / MODEL / "4").mkdir(parents=True)
    where = "--models", tmp_path / "models", "--labels", file, "--url", one.url
    code, _, error = malgil("remove", MODEL, 3, *where)
    assert code == 1
    assert error.startswith(f"error: version 3 of {MODEL} is in use: stable, canary, default, previous in ")
    assert malgil("remove", MODEL, 4, *where) == (0, f"removed version 4 of {MODEL}\n", "")
    assert not (tmp_path / "models" / MODEL / "4").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("promote", MODEL, 4), "where are the labels? give --labels FILE or --configmap NAME, one of them"),
        (("rollback", MODEL, "--labels", "a", "--configmap", "b"), "where are the labels?"),
        (("rollback", MODEL, "--labels", "a", "--namespace", "b"), "--namespace and --context go with --configmap"),
        (("promote", MODEL, 4, "--to", "prod", "--labels", "a"), "--to is canary or stable, not 'prod'"),
        (("promote", MODEL, "--to", "canary", "--labels", "a"), "which version is to be the canary?"),
        (("promote", MODEL, 4, "--share", 5, "--labels", "a"), "--share is that of a canary"),
        (("status", "--url", "127.0.0.1:8000"), "'127.0.0.1:8000' is no address of a server"),
    ],
)
def test_bad_usage(arguments: tuple[object, ...], message: str) -> None:
    code, shown, error = malgil(*arguments)
    assert (code, shown) == (2, "")
    assert error.startswith(f"error: {message}")


def test_a_labels_file_that_is_not_there(one: TestGateway, tmp_path: Path) -> None:
    code, _, error = malgil("rollback", MODEL, "--labels", tmp_path / "none.yaml", "--url", one.url)
    assert (code, error) == (1, f"error: {tmp_path / 'none.yaml'}: No such file or directory\n")
