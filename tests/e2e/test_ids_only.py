"""The tokenization fallback: a model server without TF Text, and a gateway that tokenizes for it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET, Manifest
from tests.support.model_server_process import QUICK, UNWARMED, model_server
from tests.support.server_process import server_process

MODEL = "tiny-transformer"


@pytest.mark.parametrize("tokenize", ["auto", "graph"])
def test_golden_texts_get_the_answers_of_the_trained_model(tokenize: str, ids_only_root: Path) -> None:
    manifest = Manifest.from_json((ids_only_root / MODEL / "1" / ASSETS_FOLDER / MANIFEST_ASSET).read_bytes())
    asked = [case for case in manifest.certificate.cases if not case.prefix_ids]
    settings = {"MALGIL_BACKEND": "tf-serving", "MALGIL_TF_SERVING_MODELS": MODEL, "MALGIL_TOKENIZE": tokenize}
    with (
        model_server(ids_only_root, *QUICK, UNWARMED, "--tensorflow_text=false") as models,
        server_process("--tf-serving-addresses", models.address, **settings) as server,
        httpx.Client(base_url=server.address(), timeout=60.0) as client,
    ):
        for case in asked:
            response = client.post("/v1/generate", json={"inputs": case.text, "parameters": dict(case.options)})
            assert response.status_code == 200, response.text
            (output,) = response.json()["outputs"]
            assert tuple(each["text"] for each in output["hypotheses"]) == case.sentences, case.name
            assert output["input_tokens"] == len(case.source_ids)
        tokens = client.post("/v1/tokenize", json={"inputs": asked[0].text}).json()["outputs"][0]["ids"]
        assert (*tokens, manifest.special_ids.eos) == asked[0].source_ids
        scored = {"inputs": asked[0].text, "targets": asked[0].text, "parameters": {"details": True}}
        (target,) = client.post("/v1/score", json=scored).json()["outputs"]
        assert tuple(token["id"] for token in target["tokens"]) == asked[0].source_ids
        assert target["score"] == pytest.approx(sum(token["log_prob"] for token in target["tokens"]))
        called = {call.signature for call in models.take_calls() if call.method == "Predict"}
    assert called == {"describe", "generate_ids", "score_ids"}
