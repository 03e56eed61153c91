"""Verification finds what was changed since the export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from model_export.artifact.calls import Signature
from model_export.artifact.machine import MachineError
from model_export.artifact.reloaded import in_session
from model_export.artifact.replay import Comparison, replay_certificate
from model_export.contract import IDS_ONLY, SIGNATURES, Certificate, CpuFeatures, Manifest
from model_export.generation import opened
from model_export.text.tokenizers import BOS_ID, EOS_ID
from model_export.verify import VerificationReport, VerifyError, verify
from tests.support.tiny_models import CORPUS, VOCABULARY_SIZE, tiny_tokenizer


@pytest.fixture(scope="module")
def original(artifact_root: Path) -> Path:
    return artifact_root / "tiny-rnn" / "1"


@pytest.fixture
def artifact(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "1"))


def manifest_of(artifact: Path) -> Manifest:
    return Manifest.from_json((artifact / "assets" / "manifest.json").read_bytes())


Replay = Callable[[Certificate], Comparison]


def ask_of_the_processor(artifact: Path, feature: str) -> None:
    manifest = replace(manifest_of(artifact), cpu_features=CpuFeatures((feature,)))
    (artifact / "assets" / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")


def found(report: VerificationReport) -> set[tuple[str, str, str, str]]:
    return {(item.where, item.signature, item.case, item.field) for item in report.differences}


def change_one_weight(artifact: Path) -> None:
    """Rewrite the checkpoint with one number changed: of the embedding that every answer begins with."""
    prefix = str(artifact / "variables" / "variables")
    checkpoint = tf.train.load_checkpoint(prefix)
    tensors = {name: checkpoint.get_tensor(name) for name in checkpoint.get_variable_to_shape_map()}
    (table,) = [name for name, value in tensors.items() if np.ndim(value) == 2 and len(value) == VOCABULARY_SIZE]
    tensors[table] = tensors[table].copy()
    tensors[table][BOS_ID, 0] += 1.0
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )


def test_one_changed_weight_is_found_in_both_runtimes(artifact: Path) -> None:
    change_one_weight(artifact)
    report = verify(artifact)
    assert not report.passed
    assert {item.where for item in report.differences} == {"saved_model.load", "session"}
    assert {item.signature for item in report.differences} >= {"generate", "generate_ids"}
    assert {item.signature for item in report.differences}.isdisjoint({"tokenize", "detokenize", "describe"})


def test_damaged_files_are_found_and_everything_else_still_holds(artifact: Path) -> None:
    tokenizer = artifact / "assets" / "tokenizer.model"
    tokenizer.write_bytes(tokenizer.read_bytes()[:-1] + b"!")
    manifest_file = artifact / "assets" / "manifest.json"
    manifest = json.loads(manifest_file.read_bytes())
    manifest["required_ops"].append("NoSuchOp")
    manifest_file.write_text(json.dumps(manifest), encoding="utf-8")

    report = verify(artifact)

    assert found(report) == {
        ("files", "", "manifest.json", "required_ops"),
        ("files", "", "tokenizer.model", "sha256"),
    }
    assert report.cases == len(manifest["certificate"]["cases"])
    text = str(report.differences[0])
    assert text.startswith("files, manifest.json, required_ops: expected ('Sentencepiece")
    assert "NoSuchOp" in text


def test_a_damaged_checkpoint_cannot_be_read(artifact: Path) -> None:
    data = artifact / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0xFF
    data.write_bytes(content)
    report = verify(artifact)
    assert found(report) == {("saved_model.load", "", "", "reading"), ("session", "", "", "reading")}


def test_a_manifest_that_is_no_manifest(artifact: Path) -> None:
    (artifact / "assets" / "manifest.json").write_text("{}", encoding="utf-8")
    report = verify(artifact)
    assert found(report) == {("files", "", "manifest.json", "contents")}


def test_a_graph_that_is_no_graph(artifact: Path) -> None:
    (artifact / "saved_model.pb").write_bytes(b"\xff\xff")
    report = verify(artifact)
    assert found(report) == {(where, "", "", "reading") for where in ("files", "saved_model.load", "session")}


@pytest.fixture
def without_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the files are looked at."""

    @contextmanager
    def nothing(artifact: Path) -> Iterator[Mapping[str, Signature]]:
        yield {}

    monkeypatch.setattr("model_export.verify.RUNTIMES", {"nothing": nothing})


@pytest.mark.usefixtures("without_runtimes")
@pytest.mark.parametrize(
    ("missing", "is_known"),
    [
        ([], True),
        (["align"], True),  # a model without attention
        (["score", "score_ids", "align"], True),  # exported before there was scoring
        ([name for name in SIGNATURES if name not in IDS_ONLY], True),
        (["score_ids"], False),
        (["generate"], False),
        (["describe"], False),
    ],
)
def test_an_artifact_has_a_whole_set_of_signatures(missing: list[str], is_known: bool, artifact: Path) -> None:
    graph_file, manifest_file = artifact / "saved_model.pb", artifact / "assets" / "manifest.json"
    saved = saved_model_pb2.SavedModel.FromString(graph_file.read_bytes())
    manifest = json.loads(manifest_file.read_bytes())
    for name in missing:
        del saved.meta_graphs[0].signature_def[name]
        del manifest["signatures"][name]
    graph_file.write_bytes(saved.SerializeToString())
    manifest_file.write_text(json.dumps(manifest), encoding="utf-8")
    files = {item for item in found(verify(artifact)) if item[0] == "files"}
    told = {("files", "", "manifest.json", "signatures"), ("files", "", "saved_model.pb", "signatures")}
    assert files == (set() if is_known else told)


@pytest.mark.usefixtures("without_runtimes")
def test_a_signature_that_the_manifest_keeps_quiet_about_is_told(artifact: Path) -> None:
    manifest_file = artifact / "assets" / "manifest.json"
    manifest = json.loads(manifest_file.read_bytes())
    del manifest["signatures"]["align"]
    manifest_file.write_text(json.dumps(manifest), encoding="utf-8")
    files = {item for item in found(verify(artifact)) if item[0] == "files"}
    assert files == {("files", "", "saved_model.pb", "signatures")}


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match=r"is no exported model: assets/manifest\.json is missing"):
        verify(tmp_path)


# --- the replay, of an artifact that is as it should be, against certificates that are not ----------------------------


@pytest.fixture(scope="module")
def replayed(original: Path) -> Iterator[tuple[Replay, Certificate]]:
    manifest = manifest_of(original)
    with in_session(original) as signatures:

        def replay(certificate: Certificate) -> Comparison:
            comparison = Comparison("session")
            replay_certificate(signatures, replace(manifest, certificate=certificate), comparison)
            return comparison

        yield replay, manifest.certificate


def test_nothing_differs(replayed: tuple[Replay, Certificate]) -> None:
    replay, certificate = replayed
    comparison = replay(certificate)
    assert comparison.differences == []
    assert comparison.checks > 10 * len(certificate.cases)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sentences": ("something else",)}, {("generate", "sentences"), ("detokenize", "sentences")}),
        ({"finish_reasons": (0,)}, {("generate", "finish_reasons"), ("generate_ids", "finish_reasons")}),
        ({"text": "another"}, {("tokenize", "ids"), ("generate", "ids")}),
        (
            {"ids": ((300,),), "finish_reasons": (2,)},
            {("generate", "ids"), ("generate_ids", "ids"), ("detokenize", "sentences")},
        ),
        ({"scores": (-1.0,)}, {(name, "scores[0]") for name in ("generate", "generate_ids", "score_ids")}),
    ],
)
def test_a_changed_case_is_found(
    changes: dict[str, Any], expected: set[tuple[str, str]], replayed: tuple[Replay, Certificate]
) -> None:
    replay, certificate = replayed
    (case,) = [case for case in certificate.cases if case.name == "script HANGUL 1"]
    comparison = replay(replace(certificate, cases=(replace(case, **changes),)))
    assert {(item.signature, item.field) for item in comparison.differences} >= expected
    assert {item.case for item in comparison.differences} == {case.name}


def test_texts_are_scored_where_they_have_the_tokens_of_the_answer(replayed: tuple[Replay, Certificate]) -> None:
    replay, certificate = replayed
    processor = sentencepiece.SentencePieceProcessor(model_proto=tiny_tokenizer())
    (case,) = [case for case in certificate.cases if case.name == "script HANGUL 1"]
    ids = (*processor.encode(CORPUS[0]), EOS_ID)
    for answer, told in ((ids, {"score", "score_ids"}), ((ids[0], *ids), {"score_ids"})):
        changed = replace(case, ids=(answer,), sentences=(CORPUS[0],), scores=(0.0,), finish_reasons=(1,))
        comparison = replay(replace(certificate, cases=(changed,)))
        scoring = [item for item in comparison.differences if item.signature.startswith("score")]
        assert {item.signature for item in scoring} == told, "no answer has the score 0"
        assert {item.field for item in scoring} == {"scores[0]"}


def test_the_signatures_without_options_are_replayed(replayed: tuple[Replay, Certificate]) -> None:
    replay, certificate = replayed
    cases = [case for case in certificate.cases if "without options" in case.name]
    changed = [replace(case, sentences=("",) * len(case.sentences)) for case in cases]
    comparison = replay(replace(certificate, cases=tuple(changed)))
    assert {item.signature for item in comparison.differences} >= {"serving_default", "beam_search"}


def test_a_refused_case_is_a_difference(replayed: tuple[Replay, Certificate]) -> None:
    replay, certificate = replayed
    case = replace(certificate.cases[0], options={"num_hypotheses": 2})
    comparison = replay(replace(certificate, cases=(case,)))
    failed = [item for item in comparison.differences if item.field == "call"]
    assert {item.signature for item in failed} == {"generate", "generate_ids"}
    assert "num_hypotheses must be 1..beam_size" in failed[0].got


@pytest.mark.parametrize("run", [verify, lambda artifact: opened(artifact).__enter__()])
def test_an_artifact_for_another_processor_is_refused_before_any_work(
    run: Callable[[Path], object], artifact: Path
) -> None:
    ask_of_the_processor(artifact, "imaginary_vnni")
    (artifact / "saved_model.pb").unlink()
    with pytest.raises(MachineError, match=r"no kernel for float32: its processor .* lacks imaginary_vnni"):
        run(artifact)
