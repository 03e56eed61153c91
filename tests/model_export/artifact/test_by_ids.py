"""An artifact for servers without TF Text, and texts for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model_export.artifact.calls import text_array
from model_export.artifact.reloaded import read_meta_graph
from model_export.contract import IDS_ONLY, SIGNATURES, Manifest
from model_export.generation import generate, opened
from model_export.verify import verify
from tests.support.tiny_models import CORPUS

WITHOUT_TF_TEXT = """
import json, pathlib, sys
import numpy as np
import tensorflow as tf
from model_export.contract import OPTIONS

artifact = sys.argv[1]
session = tf.compat.v1.Session(graph=tf.Graph())
with session.graph.as_default():
    spec = tf.compat.v1.saved_model.load(session, ["serve"], artifact).signature_def["generate_ids"]
case = json.loads((pathlib.Path(artifact) / "assets/manifest.json").read_bytes())["certificate"]["cases"][0]
inputs = {name: np.array([option.neutral], option.dtype) for name, option in OPTIONS.items()}
inputs |= {"prefix_ids": np.zeros([1, 1], np.int32), "prefix_lengths": np.zeros([1], np.int32)}
inputs["source_ids"] = np.array([case["source_ids"]], np.int32)
inputs["source_lengths"] = np.array([len(case["source_ids"])], np.int32)
feeds = {spec.inputs[name].name: value for name, value in inputs.items()}
ids, lengths = session.run([spec.outputs["ids"].name, spec.outputs["lengths"].name], feeds)
assert "tensorflow_text" not in sys.modules
print(json.dumps({"got": ids[0, 0, : lengths[0, 0]].tolist(), "certified": case["ids"][0]}))
"""


@pytest.fixture(scope="module")
def artifact(ids_only_root: Path) -> Path:
    return ids_only_root / "tiny-transformer" / "1"


def operations(artifact: Path) -> set[str]:
    graph = read_meta_graph(artifact).graph_def
    return {node.op for node in graph.node} | {node.op for body in graph.library.function for node in body.node_def}


def test_no_operation_of_tf_text_is_in_it(artifact: Path, artifact_root: Path) -> None:
    found = {name for name in operations(artifact) if "Sentencepiece" in name}
    assert found == set()
    assert "SentencepieceOp" in operations(artifact_root / "tiny-transformer" / "1"), "the other kind has them"
    manifest = Manifest.from_json((artifact / "assets" / "manifest.json").read_bytes())
    assert manifest.required_ops == ()
    assert manifest.signatures == {name: SIGNATURES[name] for name in IDS_ONLY}
    assert (artifact / "assets" / "tokenizer.model").is_file(), "whoever calls tokenizes with it"


def test_a_process_without_tf_text_runs_it(artifact: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TF_TEXT, artifact], capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout.splitlines()[-1])
    assert answer["got"] == answer["certified"]


def test_it_verifies(artifact: Path) -> None:
    report = verify(artifact)
    assert report.differences == ()
    assert report.cases >= 16


def test_texts_are_answered_as_by_the_other_kind(artifact: Path, artifact_root: Path) -> None:
    options = {"beam_size": 3, "num_hypotheses": 2, "max_new_tokens": 8}
    with opened(artifact) as by_ids, opened(artifact_root / "tiny-transformer" / "1") as by_text:
        got = list(generate(by_ids.generate, CORPUS, options))
        assert got == list(generate(by_text.generate, CORPUS, options))
        pairs = {"texts": text_array(CORPUS), "targets": text_array([answer.sentences[0] for answer in got])}
        scores, expected = by_ids.score(pairs), by_text.score(pairs)
    assert len({answer.sentences for answer in got}) > len(CORPUS) // 2
    assert scores.keys() == expected.keys()
    for name, values in scores.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)
