import math
from dataclasses import replace

from service.backend import ModelVersion, VersionState
from service.backends.scripted import scripted_manifest
from service.transport import rest_convert, schemas
from service.transport.json_body import dump_json

REPORT = {"perplexity": math.inf, "losses": [1.5, math.nan], "data": "pairs.tsv", "steps": 3}


def test_versions_are_told_by_model_and_the_newest_ready_one_answers():
    manifest = replace(scripted_manifest("b"), provenance=REPORT)
    models = rest_convert.models(
        [
            ModelVersion("a", 4, VersionState.LOADING),
            ModelVersion("b", 3, VersionState.REFUSED, reason="broken"),
            ModelVersion("b", 2, VersionState.READY, manifest=manifest, tokenizer=b""),
        ]
    )
    schemas.ModelList.model_validate({"models": models})
    assert [(model["name"], model["version"]) for model in models] == [("a", None), ("b", 2)]
    assert models[0]["versions"] == [{"version": 4, "state": "loading"}]
    assert models[1]["versions"][0] == {"version": 3, "state": "refused", "reason": "broken"}


def test_metrics_that_are_no_numbers_are_null_in_json():
    manifest = replace(scripted_manifest("b"), provenance=REPORT)
    (model,) = rest_convert.models([ModelVersion("b", 2, VersionState.READY, manifest=manifest, tokenizer=b"")])
    told = model["versions"][0]["provenance"]
    assert told == {"perplexity": None, "losses": [1.5, None], "data": "pairs.tsv", "steps": 3}
    assert dump_json(model)
