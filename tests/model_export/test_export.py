"""An export leaves a whole, truthful artifact, or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorflow_serving.apis import prediction_log_pb2

from model_export.artifact.calls import text_array
from model_export.artifact.reloaded import in_session, loaded, read_meta_graph
from model_export.artifact.versions import VersionError
from model_export.calibration import StaticScales
from model_export.contract import (
    MINIMUM_GOLDEN_CASES,
    SIGNATURES,
    SUPPORTED_OPTIONS,
    Calibration,
    Limits,
    Manifest,
    sha256,
)
from model_export.export import STAGES, ExportError, export_model
from model_export.verify import RUNTIMES
from tests.support.tiny_models import CORPUS, LIMITS, RNN, TRANSFORMER, VOCABULARY_SIZE, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def artifact(artifact_root: Path) -> Path:
    return artifact_root / "tiny-transformer" / "1"


@pytest.fixture(scope="module")
def manifest(artifact: Path) -> Manifest:
    return Manifest.from_json((artifact / "assets" / "manifest.json").read_bytes())


def test_the_artifact_is_all_there_and_nothing_else_is_left(artifact: Path) -> None:
    assert [path.name for path in artifact.parent.iterdir()] == ["1"]
    files = {str(path.relative_to(artifact)) for path in artifact.rglob("*") if path.is_file()}
    assert files == {
        "saved_model.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
        "assets/manifest.json",
        "assets/tokenizer.model",
        "assets.extra/tf_serving_warmup_requests",
    }


def test_the_manifest_is_true(manifest: Manifest, artifact: Path) -> None:
    trained = tiny_model(TRANSFORMER)
    assert manifest.model_name == "tiny-transformer"
    assert manifest.architecture == "transformer"
    assert manifest.parameter_count == sum(weight.numpy().size for weight in trained.model.weights)
    assert manifest.limits == Limits(**LIMITS)
    assert manifest.signatures == SIGNATURES
    assert manifest.supported_options == SUPPORTED_OPTIONS
    assert manifest.tokenizer.sha256 == sha256(tiny_tokenizer())
    assert (manifest.tokenizer.vocabulary_size, manifest.tokenizer.byte_fallback) == (VOCABULARY_SIZE, True)
    assert manifest.provenance == trained.report
    operations = {node.op for body in read_meta_graph(artifact).graph_def.library.function for node in body.node_def}
    assert set(manifest.required_ops) == {name for name in operations if name.startswith("Sentencepiece")}


def test_the_manifest_of_int8_tells_what_it_needs_and_what_it_was_calibrated_by(
    int8_root: Path, artifact: Path
) -> None:
    int8 = int8_root / "tiny-transformer" / "1"
    manifest = Manifest.from_json((int8 / "assets" / "manifest.json").read_bytes())
    assert (manifest.dtype, manifest.required_ops) == ("int8", ("_QuantizedMatMul",))
    assert {"avx512f", "avx512_vnni"} <= set(manifest.cpu_features.required)
    assert manifest.calibration is not None
    assert (manifest.calibration.file, manifest.calibration.pairs) == ("pairs.tsv", len(CORPUS))
    sizes = [(folder / "variables" / "variables.data-00000-of-00001").stat().st_size for folder in (int8, artifact)]
    assert sizes[0] < 0.8 * sizes[1]  # the embedding stays float32


def test_the_certificate_of_int8_allows_for_its_rounding_and_has_as_many_cases(
    int8_root: Path, manifest: Manifest
) -> None:
    path = int8_root / "tiny-transformer" / "1" / "assets" / "manifest.json"
    int8, float32 = Manifest.from_json(path.read_bytes()).certificate, manifest.certificate
    assert int8 is not None
    assert float32 is not None
    assert (int8.logit_noise, float32.logit_noise) == (0.1, 1e-3)
    assert [case.name for case in int8.cases] == [case.name for case in float32.cases]


def test_static_scales_are_for_int8_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="static scales are for int8, not for bfloat16"):
        export_model(tiny_model(RNN), tmp_path, "m", dtype="bfloat16", scales=StaticScales({}, Calibration("a", "", 1)))


def test_the_certificate_covers_what_the_model_knows(manifest: Manifest) -> None:
    certificate = manifest.certificate
    assert certificate is not None
    assert len(certificate.cases) >= MINIMUM_GOLDEN_CASES
    names = " ".join(case.name for case in certificate.cases)
    for script in ("LATIN", "HANGUL", "HIRAGANA", "KATAKANA", "CJK"):
        assert f"script {script} 1" in names
    by_name = {case.name: case for case in certificate.cases}
    assert by_name["decomposed Korean 1"].text != "안녕하세요"  # the same to the eye
    assert any(4 <= token < 260 for token in by_name["beyond the vocabulary 1"].source_ids)
    assert len(by_name["longest 1"].source_ids) == max(len(case.source_ids) for case in certificate.cases)
    assert by_name["forced prefix 1"].prefix_ids
    assert len(by_name["n-best 1"].ids) == 4
    assert all(len(case.ids[0]) <= 20 for case in certificate.cases)


@pytest.mark.parametrize("runtime", [loaded, in_session])
def test_describe_tells_the_files_as_they_are_now(runtime: Callable, artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(artifact, tmp_path / "moved" / "7")
    manifest_file, tokenizer_file = copy / "assets" / "manifest.json", copy / "assets" / "tokenizer.model"
    changed = {**json.loads(manifest_file.read_bytes()), "provenance": {"measured": "after the save"}}
    manifest_file.write_text(json.dumps(changed), encoding="utf-8")
    with runtime(copy) as signatures:
        outputs = signatures["describe"]({"unused": text_array(["", ""])})
        assert outputs["manifest"].shape == outputs["tokenizer"].shape == (1,)
        assert outputs["manifest"][0] == manifest_file.read_bytes()
        assert outputs["tokenizer"][0] == tokenizer_file.read_bytes()
        manifest_file.write_text("changed while it serves", encoding="utf-8")
        assert signatures["describe"]({"unused": text_array([""])})["manifest"][0] == b"changed while it serves"


@pytest.mark.parametrize("stage", [STAGES[0], STAGES[-1]])
def test_an_interrupted_export_leaves_no_version(stage: str, tmp_path: Path) -> None:
    seen: dict[str, list[str]] = {}

    def interrupt(name: str, done: int, total: int) -> None:
        seen[name] = [path.name for path in (tmp_path / "m").iterdir() if path.name.isdecimal()]
        if name == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(tiny_model(RNN), tmp_path, "m", on_progress=interrupt)
    assert seen == {earlier: [] for earlier in STAGES[: 1 + STAGES.index(stage)]}
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_that_fails_its_certificate_is_not_published(tmp_path: Path) -> None:
    def damage(stage: str, done: int, total: int) -> None:
        if stage == STAGES[-1]:
            (staging,) = (tmp_path / "m").iterdir()
            (staging / "variables" / "variables.data-00000-of-00001").write_bytes(b"")

    with pytest.raises(
        ExportError, match=r"the exported graph differs in 2 places: saved_model\.load, reading: expected"
    ):
        export_model(tiny_model(RNN), tmp_path, "m", on_progress=damage)
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_exists_is_refused_before_any_work(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    told: list[tuple[str, int, int]] = []
    with pytest.raises(VersionError, match="exists: versions are never overwritten"):
        export_model(tiny_model(RNN), tmp_path, "m", 1, lambda *stage: told.append(stage))
    assert told == []


def test_every_stage_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    export_model(tiny_model(RNN), tmp_path, "m", on_progress=lambda *stage: told.append(stage))

    assert tuple(dict.fromkeys(stage for stage, _, _ in told)) == STAGES
    tracing, certifying, saving, verifying = (
        [(done, total) for name, done, total in told if name == stage] for stage in STAGES
    )
    assert tracing == [(done, len(SIGNATURES) + 1) for done in range(len(SIGNATURES) + 1)]
    kinds = len(certifying) - 1
    assert kinds > 10
    assert certifying == [(0, 0), *((done, kinds) for done in range(1, kinds + 1))]
    assert saving == [(0, 0)]
    answers = len(RUNTIMES) * len(SIGNATURES)
    assert verifying == [(done, answers) for done in range(answers + 1)]


def test_warm_up_records_are_what_tf_serving_reads(artifact: Path, manifest: Manifest) -> None:
    import tensorflow as tf

    records = tf.data.TFRecordDataset(str(artifact / "assets.extra" / "tf_serving_warmup_requests"))
    requests = [
        prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        for record in records.as_numpy_iterator()
    ]
    assert {request.model_spec.name for request in requests} == {manifest.model_name}
    assert {request.model_spec.signature_name for request in requests} == set(SIGNATURES)
    assert len(requests) <= 1000  # TF Serving reads no more
    shapes = set()
    for request in requests:
        spec = SIGNATURES[request.model_spec.signature_name]
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        assert inputs.keys() == spec.inputs.keys()
        assert all(value.ndim == len(spec.inputs[name].shape) for name, value in inputs.items())
        if "texts" in inputs:
            assert {text.decode() for text in inputs["texts"]} <= set(CORPUS)
        if request.model_spec.signature_name == "generate_ids":
            shapes.add((len(inputs["beam_size"]), int(inputs["beam_size"][0])))
    assert shapes == {(1, 1), (8, 1), (1, 4), (8, 4)}
