"""TF Serving has the same flags wherever it is started, and pages tell them as they are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml

from tests.support.kustomize import render
from tests.support.manifest_schemas import containers
from tests.support.overlays import FOLDERS, K8S

Flags: TypeAlias = Mapping[str, str]

REPOSITORY = Path(__file__).parents[2]
OF_THE_SIZE = {"--grpc_max_threads", "--tensorflow_inter_op_parallelism"}
"""Gateways and cores; ``k8s/base`` and compose have the same, overlays their own."""
OF_THE_PLACE = {
    "--port",
    "--rest_api_port",
    "--model_config_file",
    "--monitoring_config_file",
    "--enable_grpc_healthcheck_service",
}
"""Files, and ports that somebody asks there: they need not be everywhere."""


def read(path: str) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


def parsed(words: list[str]) -> dict[str, str]:
    """The values of flags, each of which is there once."""
    flags = dict(word.split("=", 1) for word in words)
    assert len(flags) == len(words), words
    return flags


def kept() -> Flags:
    return parsed(read("docker/tf-serving.flags").split())


def of_compose() -> Flags:
    (command,) = yaml.safe_load(read("docker-compose.yml"))["services"]["tf-serving"]["command"]
    _, program, *words = command.replace("$$(cat /etc/tf-serving.flags)", read("docker/tf-serving.flags")).split()
    assert program == "tensorflow_model_server"
    return parsed(words)


def of_the_page() -> Flags:
    (shown,) = re.findall(r"^tensorflow_model_server (.*?)^```", read("docs/tf-serving.md"), re.MULTILINE | re.DOTALL)
    return parsed(shlex.split(shown.replace("\\\n", " ")))


def of_pods(folder: str) -> Flags:
    """As the kubelet fills in what is named in them."""
    found = {(each["kind"], each["metadata"]["name"]): each for each in render(K8S / folder)}
    (container,) = containers(found["Deployment", "malgil-tf-serving"])
    (source,) = container["envFrom"]
    given = found["ConfigMap", source["configMapRef"]["name"]]["data"]
    variables = {**given, "CORES": str(container["resources"]["limits"]["cpu"])}
    return parsed([re.sub(r"\$\((\w+)\)", lambda name: variables[name[1]], word) for word in container["args"]])


def of_the_table() -> dict[str, str | None]:
    """What ``docs/operations.md`` explains, with its value where it has one."""
    section = read("docs/operations.md").partition("\n## TF Serving's flags\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(--\w+)(?:=(\S+))?` \|", section, re.MULTILINE)
    assert len(dict(rows)) == len(rows)
    return {flag: value or None for flag, value in rows}


def differences(one: Flags, other: Flags, *, but: set[str] = OF_THE_PLACE) -> list[str]:
    """Flags that only one of them has or that have other values there; those of ``but`` may be missing."""
    missing = {flag for flag in one.keys() ^ other.keys() if flag not in but}
    return sorted(missing | {flag for flag in one.keys() & other.keys() if one[flag] != other[flag]})


@pytest.mark.parametrize("place", [of_compose, of_the_page, lambda: of_pods("base")], ids=["compose", "page", "base"])
def test_tf_serving_has_the_flags_that_are_kept_for_it(place) -> None:
    assert differences(kept(), place()) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_have_those_of_compose_but_for_their_size_and_files(folder: str) -> None:
    files = {"--model_config_file"}
    pods, compose = (
        {flag: value for flag, value in flags.items() if flag not in OF_THE_SIZE | files}
        for flags in (of_pods(folder), of_compose())
    )

    assert OF_THE_SIZE | files <= of_pods(folder).keys()
    assert differences(pods, compose) == []


def test_the_table_explains_the_flags_of_pods_and_no_others() -> None:
    table, pods = of_the_table(), of_pods("base")

    assert table.keys() == pods.keys()
    assert {flag: value for flag, value in table.items() if value not in (None, pods[flag])} == {}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"--enable_batching": "true"}, ["--enable_batching"]),
        ({"--max_num_load_retries": None}, ["--max_num_load_retries"]),
        ({"--max_num_load_retries": "1"}, ["--max_num_load_retries"]),
        ({"--port": "8400"}, ["--port"]),
        ({"--port": None}, []),
    ],
)
def test_a_flag_that_is_missing_or_different_is_told(changed: dict[str, str | None], told: list[str]) -> None:
    flags = of_compose()
    other = {flag: value for flag, value in {**flags, **changed}.items() if value is not None}

    assert differences(flags, other) == differences(other, flags) == told
