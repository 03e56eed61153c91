"""The OpenAPI document is true: schemathesis asks what it allows and what it forbids, and judges every answer by it.

``MALGIL_TEST_OPENAPI_EXAMPLES`` sets how many requests of either kind an operation gets, 30 by default.
"""

import asyncio
import os

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from pydantic import BaseModel
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service.backends.scripted import ScriptedBackend, scripted_manifest
from service.engine import Engine
from service.errors import InvalidRequest
from service.generation import GenerationOptions, ScoreRequest
from service.settings import Settings
from service.telemetry import Telemetry
from service.transport import schemas
from service.transport.openapi import PATH, document
from service.transport.rest import create_app
from service.validation.options import LONGEST_STOP, MOST_STOPS, parse_options
from service.validation.requests import SCORE_PARAMETERS
from tests.support.rest_client import rest_server

EXAMPLES = int(os.environ.get("MALGIL_TEST_OPENAPI_EXAMPLES", "30"))
CASES = [
    (path, method, mode)
    for path, methods in document()["paths"].items()
    for method, operation in methods.items()
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if mode is GenerationMode.POSITIVE or "requestBody" in operation  # nothing of a GET can be wrong
]


@pytest.fixture(scope="module")
def api():
    typed, telemetry = Settings(), Telemetry()
    engine = Engine(ScriptedBackend(), typed, telemetry)
    asyncio.run(engine.start())
    yield schemathesis.openapi.from_asgi(PATH, create_app(engine, typed, telemetry))
    asyncio.run(engine.close())


@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_no_answer_is_outside_the_document(api, path, method, mode):
    """Checks status, content type, headers and schema of every answer, and that what is forbidden is refused."""
    statuses = []

    @seed(1)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=api[path][method].as_strategy(generation_mode=mode))
    def ask(case):
        if mode is GenerationMode.POSITIVE and "X-Request-Timeout-Ms" in case.headers:
            case.headers["X-Request-Timeout-Ms"] = "30000"  # any time is allowed, but 1 ms is too short for an answer
        response = case.call()
        # What the document allows may still exceed a model's own limits, which differ by model.
        case.validate_response(response, excluded_checks=[positive_data_acceptance])
        assert response.status_code < 500
        statuses.append(response.status_code)

    ask()
    assert statuses


def test_the_examples_of_the_documentation_run():
    async def scenario():
        async with rest_server() as server:
            for path, methods in document()["paths"].items():
                for method, operation in methods.items():
                    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                    for name, example in content.get("examples", {}).items():
                        response = await server.client.request(method, path, json=example["value"])
                        assert response.status_code == 200, (path, name, response.text)
                        ran.append(path)

    ran: list[str] = []
    asyncio.run(scenario())
    assert set(ran) == {"/v1/generate", "/v1/score", "/v1/tokenize", "/v1/detokenize"}


def test_the_documentation_page_works_without_a_network():
    async def scenario():
        async with rest_server() as server:
            page = await server.client.get("/docs")
            assets = [await server.client.get(f"/docs/{name}") for name in ("swagger-ui-bundle.js", "swagger-ui.css")]
            return page, assets, await server.client.get(PATH)

    page, assets, described = asyncio.run(scenario())
    assert "https://" not in page.text
    assert "http://" not in page.text
    assert all(f".{asset.url.path}" in page.text and len(asset.content) > 100_000 for asset in assets)
    assert f"'.{PATH}'" in page.text
    assert described.json() == document()


def test_every_decoding_option_is_described():
    assert set(schemas.GenerateParameters.model_fields) == set(GenerationOptions.__dataclass_fields__)
    assert set(schemas.ScoreParameters.model_fields) == set(SCORE_PARAMETERS) < set(ScoreRequest.__dataclass_fields__)


def test_what_is_described_has_the_bounds_of_what_is_judged():
    described = document()["components"]["schemas"]["GenerateParameters"]["properties"]
    manifest = scripted_manifest("echo")
    for name, schema in described.items():
        edges = [schema[key] for key in ("minimum", "maximum") if key in schema]
        beyond = [schema[key] + step for key, step in (("minimum", -1), ("maximum", 1)) if key in schema]
        beyond += [schema["exclusiveMinimum"]] if "exclusiveMinimum" in schema else []
        for value in edges:
            parse_options({name: value}, manifest, 10)
        for value in beyond:
            with pytest.raises(InvalidRequest, match=f"'{name}' must be"):
                parse_options({name: value}, manifest, 10)
        assert edges or beyond or schema["type"] in ("boolean", "string", "array"), name
    assert (described["stop"]["maxItems"], described["stop"]["items"]["maxLength"]) == (MOST_STOPS, LONGEST_STOP)


def test_nothing_that_travels_may_have_unknown_fields():
    described = document()["components"]["schemas"]
    assert all(issubclass(getattr(schemas, name), BaseModel) for name in described)
    assert [name for name, schema in described.items() if schema["additionalProperties"] is not False] == []
