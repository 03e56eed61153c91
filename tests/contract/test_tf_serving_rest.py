"""What probes of docker-compose.yml and k8s/ rely on in TF Serving's REST interface (conftest.py has the servers).

Its answers are those of GetModelStatus and GetModelMetadata, its errors their texts as a JSON ``error``.
"""

from __future__ import annotations

import shutil

import grpc
import pytest

from tests.support.model_server_client import add_version, eventually

NO_MODEL = (404, {"error": "Could not find any versions of model nope"})


@pytest.fixture
def get(server):
    """Status and JSON of ``GET /v1/models`` with what is given after it."""
    if not server.rest_address:
        pytest.skip("needs the server's REST interface: MALGIL_TFS_REST_ADDRESS")
    return lambda path: server.get(f"/v1/models{path}")


def version(number, state, code="OK", message=""):
    """As JSON has it: 64 bits are a string, enumerations their names, and defaults are there."""
    return {"version": str(number), "state": state, "status": {"error_code": code, "error_message": message}}


def test_the_status_of_an_available_version(get):
    available = (200, {"model_version_status": [version(1, "AVAILABLE")]})
    assert get("/toy") == available
    assert get("/toy/versions/1") == available


def test_a_status_does_not_look_at_labels(get, server, model):
    """GetModelStatus reads name and version only, so that a label which there is not is answered too."""
    server.reload({"name": model, "version_labels": {"stable": 1}})
    for label in ("stable", "nope"):
        assert get(f"/{model}/labels/{label}") == (200, {"model_version_status": [version(1, "AVAILABLE")]})


def test_the_status_of_what_is_not_there_is_a_404(get):
    assert get("/nope") == NO_MODEL
    assert get("/nope/versions/1") == (404, {"error": "Could not find version 1 of model nope"})
    assert get("/toy/versions/99") == (404, {"error": "Could not find version 99 of model toy"})


def test_a_version_that_was_unloaded_is_at_its_end_and_newer_ones_come_first(get, server, model, toys):
    add_version(server.root / model, toys, 2)
    eventually(lambda: server.available(model) == [2], "the new version")
    assert get(f"/{model}") == (200, {"model_version_status": [version(2, "AVAILABLE"), version(1, "END")]})
    assert get(f"/{model}/versions/1") == (200, {"model_version_status": [version(1, "END")]})


def test_a_version_that_cannot_be_loaded_is_at_its_end_with_the_reason(get, server, model, toys, tries_once):
    add_version(server.root / model, toys, 2, lacks="saved_model.pb")
    eventually(lambda: server.status(model).get(2, ("",))[0] == "END", "the end of the broken version")
    code, body = get(f"/{model}")
    broken, old = body["model_version_status"]
    assert (code, old) == (200, version(1, "AVAILABLE"))
    message = broken["status"]["error_message"]
    assert message.startswith("Could not find SavedModel .pb")
    assert broken == version(2, "END", "NOT_FOUND", message)


def test_metadata_tell_the_signatures_of_the_version_that_answers(get, server, model, toys):
    """k8s/ has them for its readiness probe."""
    server.reload({"name": model, "version_labels": {"stable": 1}})
    for path in ("", "/versions/1", "/labels/stable"):
        code, body = get(f"/{model}{path}/metadata")
        assert (code, body["model_spec"]) == (200, {"name": model, "signature_name": "", "version": "1"})
        signatures = body["metadata"]["signature_def"]["signature_def"]
        assert {"serving_default", "pair", "echo"} <= set(signatures)
        assert signatures["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"


def test_metadata_are_a_404_without_an_available_version(get, server, model):
    """Where the status of a model that was there once is a 200."""
    assert get("/nope/metadata") == (404, {"error": "Servable not found for request: Latest(nope)"})
    shutil.rmtree(server.root / model / "1")
    eventually(lambda: server.available(model) == [], "no version at all")
    assert get(f"/{model}") == (200, {"model_version_status": [version(1, "END")]})
    assert get(f"/{model}/metadata") == (404, {"error": f"Servable not found for request: Latest({model})"})


def test_metadata_of_an_unknown_label_are_a_400(get):
    assert get("/toy/labels/nope/metadata") == (400, {"error": "Unrecognized servable version label: nope"})


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("", "Missing model name in request."),
        ("/toy/versions/one", "Malformed request: GET /v1/models/toy/versions/one"),
        ("/toy/nope", "Malformed request: GET /v1/models/toy/nope"),
    ],
)
def test_a_path_that_is_none_is_a_400(get, path, error):
    assert get(path) == (400, {"error": error})


def test_what_rest_says_is_what_grpc_says(get, server):
    with pytest.raises(grpc.RpcError) as caught:
        server.status("nope")
    assert get("/nope")[1] == {"error": caught.value.details()}
