import math
from dataclasses import replace

from service.backend import ModelVersion, VersionState
from service.backends.scripted import scripted_manifest
from service.engine import LabelStatus, ModelStatus
from service.transport import rest_convert, schemas
from service.transport.json_body import dump_json

REPORT = {"perplexity": math.inf, "losses": [1.5, math.nan], "data": "pairs.tsv", "steps": 3}


def test_versions_are_told_by_model():
    manifest = replace(scripted_manifest("b"), provenance=REPORT)
    listed = rest_convert.model_list(
        [
            ModelStatus("a", None, (ModelVersion("a", 4, VersionState.LOADING),), ()),
            ModelStatus(
                "b",
                2,
                (
                    ModelVersion("b", 3, VersionState.REFUSED, reason="broken", replicas={"10.0.0.1:8500": "END"}),
                    ModelVersion("b", 2, VersionState.READY, manifest=manifest, tokenizer=b""),
                ),
                (),
            ),
        ],
        "labels in labels.yaml: no",
    )
    schemas.ModelList.model_validate(listed)
    assert listed["labels_error"] == "labels in labels.yaml: no"
    models = listed["models"]
    assert [(model["name"], model["version"]) for model in models] == [("a", None), ("b", 2)]
    assert models[0]["versions"] == [{"version": 4, "state": "loading"}]
    assert models[1]["versions"][0] == {
        "version": 3,
        "state": "refused",
        "reason": "broken",
        "replicas": {"10.0.0.1:8500": "END"},
    }


def test_labels_are_told_with_what_is_in_force_and_what_was_refused():
    labels = (
        LabelStatus("canary", {3: 9, 4: 0.5}, {3: 9, 4: 0.5}, None),
        LabelStatus("stable", {}, {5: 1}, "there is no version 5"),
    )
    told = rest_convert.model(ModelStatus("a", None, (), labels))
    schemas.ModelInfo.model_validate(told)
    assert told["labels"] == [
        {"label": "canary", "versions": [{"version": 3, "weight": 9}, {"version": 4, "weight": 0.5}]},
        {
            "label": "stable",
            "versions": [],
            "refused": {"versions": [{"version": 5, "weight": 1}], "reason": "there is no version 5"},
        },
    ]


def test_metrics_that_are_no_numbers_are_null_in_json():
    manifest = replace(scripted_manifest("b"), provenance=REPORT)
    version = ModelVersion("b", 2, VersionState.READY, manifest=manifest, tokenizer=b"")
    model = rest_convert.model(ModelStatus("b", 2, (version,), ()))
    told = model["versions"][0]["provenance"]
    assert told == {"perplexity": None, "losses": [1.5, None], "data": "pairs.tsv", "steps": 3}
    assert dump_json(model)
