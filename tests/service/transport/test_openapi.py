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

from service.backends.scripted import ScriptedBackend
from service.engine import Engine
from service.generation import GenerationOptions
from service.settings import Settings
from service.telemetry import Telemetry
from service.transport import schemas
from service.transport.openapi import PATH, document
from service.transport.rest import create_app
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
    assert set(ran) == {"/v1/generate", "/v1/tokenize", "/v1/detokenize"}


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
    assert set(schemas.GenerateParameters.model_fields) == {*GenerationOptions.__dataclass_fields__, "stop"}


def test_nothing_that_travels_may_have_unknown_fields():
    described = document()["components"]["schemas"]
    assert all(issubclass(getattr(schemas, name), BaseModel) for name in described)
    assert [name for name, schema in described.items() if schema["additionalProperties"] is not False] == []
