"""``docs/rest.md`` and ``docs/grpc.md`` say what the code does."""

import asyncio
import json
import math
import re
from pathlib import Path

import pytest

from service.engine import row_warnings
from service.engine.admission import MOST_ATTENTION
from service.errors import ERROR_TABLE
from service.generation import FinishReason, GenerationOptions
from service.settings import Settings
from service.tokenization import Unknown
from service.transport import schemas
from service.transport.proto import malgil_v1_pb2 as messages
from service.validation.options import LONGEST_STOP, MOST_STOPS
from tests.support.rest_client import rest_server

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "rest.md").read_text("utf-8")
ANSWERS = re.findall(r"^```json\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
GRPC = (DOCS / "grpc.md").read_text("utf-8")


def _table(heading, text=TEXT):
    """Cells of the rows of the first table behind ``heading``."""
    table = text.split(f"## {heading}\n")[1].split("\n\n| ")[1].split("\n\n")[0]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in table.splitlines()[2:]]


def test_its_calls_run():
    calls = re.findall(r"^curl http://127.0.0.1:8000(\S+) --data '(.*?)'$", TEXT, re.MULTILINE | re.DOTALL)
    assert [path for path, _ in calls].count("/v1/score") == 1
    assert len(calls) == 5

    async def scenario():
        async with rest_server() as server:
            return [
                await server.client.post(path, content=body.replace("en-fr", "echo").encode()) for path, body in calls
            ]

    assert [response.status_code for response in asyncio.run(scenario())] == [200] * 5


def test_its_answer_has_every_field():
    answer, _ = ANSWERS
    fields = json.loads(answer)
    schemas.GenerateResponse.model_validate(fields)
    assert fields.keys() == schemas.GenerateResponse.model_fields.keys()
    assert {*fields["outputs"][0], "seed"} == schemas.Output.model_fields.keys()
    assert {*fields["outputs"][0]["hypotheses"][0], "tokens"} == schemas.Hypothesis.model_fields.keys()


def test_its_scores_have_every_field():
    _, answer = ANSWERS
    fields = json.loads(answer)
    schemas.ScoreResponse.model_validate(fields)
    (output,) = fields["outputs"]
    assert {*output, "input_pieces", "alignment"} == schemas.ScoredTarget.model_fields.keys()
    assert output["score"] == pytest.approx(sum(token["log_prob"] for token in output["tokens"]))
    assert output["perplexity"] == pytest.approx(math.exp(-output["score"] / output["target_tokens"]), abs=1e-3)
    assert len(output["tokens"]) == output["target_tokens"]


@pytest.mark.parametrize(
    ("heading", "described"), [("Generate", schemas.GenerateParameters), ("Score", schemas.ScoreParameters)]
)
def test_it_lists_every_parameter(heading, described):
    assert [row[0].strip("`") for row in _table(heading)] == list(described.model_fields)
    for name, default, _ in _table(heading):
        if name not in ("`max_new_tokens`", "`seed`"):
            assert json.loads(default) == described.model_fields[name.strip("`")].default


def test_its_warnings_are_those_of_the_code():
    told = [
        *row_warnings.truncated(12),
        *row_warnings.cut([FinishReason.LENGTH], "'max_new_tokens', 32"),
        *row_warnings.without_sampling(GenerationOptions(temperature=0.5)),
        f"input has characters that the model does not know: {row_warnings._place(Unknown(4, '🦜'))}",
    ]
    for warning in told:
        assert f"- `{warning}`" in TEXT


def test_it_tells_the_bounds():
    assert f"At most {MOST_STOPS} strings of 1 to {LONGEST_STOP} characters" in TEXT
    assert f"more than {MOST_ATTENTION:,} numbers" in TEXT


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
