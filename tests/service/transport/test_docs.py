"""``docs/rest.md`` and ``docs/grpc.md`` say what the code does."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from service.errors import ERROR_TABLE
from service.settings import Settings
from service.transport import schemas
from service.transport.proto import malgil_v1_pb2 as messages
from tests.support.rest_client import rest_server

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "rest.md").read_text("utf-8")
GRPC = (DOCS / "grpc.md").read_text("utf-8")


def _table(heading, text=TEXT):
    """Cells of the rows of the first table behind ``heading``."""
    table = text.split(f"## {heading}\n")[1].split("\n\n| ")[1].split("\n\n")[0]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in table.splitlines()[2:]]


def test_its_calls_run():
    calls = re.findall(r"^curl http://127.0.0.1:8000(\S+) --data '(.*?)'$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(calls) == 4

    async def scenario():
        async with rest_server() as server:
            return [await server.client.post(path, content=body.encode()) for path, body in calls]

    assert [response.status_code for response in asyncio.run(scenario())] == [200] * 4


def test_its_answer_has_every_field():
    (answer,) = re.findall(r"^```json\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    fields = json.loads(answer)
    schemas.GenerateResponse.model_validate(fields)
    assert fields.keys() == schemas.GenerateResponse.model_fields.keys()
    assert fields["outputs"][0].keys() == schemas.Output.model_fields.keys()
    assert {*fields["outputs"][0]["hypotheses"][0], "tokens"} == schemas.Hypothesis.model_fields.keys()


def test_it_lists_every_parameter():
    supported = {row[0].strip("`") for row in _table("Generate")}
    unsupported = set(re.findall("`([a-z_]+)`", TEXT.split("The options")[1].split("are known")[0]))
    assert supported.isdisjoint(unsupported)
    assert supported | unsupported == set(schemas.GenerateParameters.model_fields)
    defaults = {name: field.default for name, field in schemas.GenerateParameters.model_fields.items()}
    for name, default, _ in _table("Generate"):
        if name != "`max_new_tokens`":
            assert json.loads(default) == defaults[name.strip("`")]


def test_it_lists_every_error():
    listed = {(int(status), error_type.strip("`")) for status, error_type, _ in _table("Errors")}
    assert listed == {row[:2] for row in ERROR_TABLE.values()} | {(405, "validation"), (500, "internal")}


def test_that_of_grpc_lists_every_method():
    service = messages.DESCRIPTOR.services_by_name["GenerationService"]
    assert [method.strip("`") for method, _ in _table("Methods", GRPC)] == [method.name for method in service.methods]


def test_that_of_grpc_lists_every_error():
    listed = {(code.strip("`"), error_type.strip("`")) for code, error_type, _ in _table("Errors", GRPC)}
    expected = {(row.grpc_code, row.error_type) for row in ERROR_TABLE.values()} | {("INTERNAL", "internal")}
    assert listed == expected - {("INVALID_ARGUMENT", "too_large")}  # gRPC's core refuses what is too large


@pytest.mark.parametrize("text", [TEXT, GRPC], ids=["rest", "grpc"])
def test_they_name_settings_that_exist(text):
    named = set(re.findall("MALGIL_[A-Z_]+", text))
    assert named
    assert named <= {f"MALGIL_{name.upper()}" for name in Settings.model_fields}
