"""Verification of an exported artifact: is it what its manifest says, and does it answer as the live model did?

The certificate is replayed through the reloaded SavedModel twice: by ``tf.saved_model.load``, and by a TF1 session,
which is how TF Serving runs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import tensorflow as tf

from model_export.artifact.calls import Signature, text_array
from model_export.artifact.reloaded import in_session, loaded, read_meta_graph, required_ops, signature_defs
from model_export.artifact.replay import Comparison, Difference, replay_certificate
from model_export.artifact.warmup import read_warmup_records
from model_export.config import UserError
from model_export.contract import (
    ASSETS_FOLDER,
    MANIFEST_ASSET,
    MINIMUM_GOLDEN_CASES,
    SIGNATURES,
    TOKENIZER_ASSET,
    WARMUP_RECORDS,
    ContractError,
    Manifest,
    TensorSpec,
    sha256,
)

RUNTIMES: Final[Mapping[str, Callable[[Path], AbstractContextManager[Mapping[str, Signature]]]]] = {
    "saved_model.load": loaded,
    "session": in_session,
}
_UNREADABLE = (OSError, ValueError, IndexError, tf.errors.OpError)  # IndexError: a checkpoint that was cut short


class VerifyError(UserError):
    """There is nothing to verify."""


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What was found; ``checks`` counts single comparisons."""

    artifact: Path
    cases: int
    checks: int
    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        """Whether the artifact is as its manifest says."""
        return not self.differences


def verify(artifact: Path) -> VerificationReport:
    """Check the files of ``<root>/<model>/<version>/`` and replay its certificate in every runtime.

    Raises:
        VerifyError: the folder is no artifact.
    """
    manifest_file = artifact / ASSETS_FOLDER / MANIFEST_ASSET
    if not manifest_file.is_file():
        raise VerifyError(f"{artifact} is no exported model: {ASSETS_FOLDER}/{MANIFEST_ASSET} is missing")
    files = Comparison("files")
    try:
        manifest = Manifest.from_json(manifest_file.read_bytes())
    except ContractError as error:
        files.equal("", MANIFEST_ASSET, "contents", "a manifest", str(error))
        return VerificationReport(artifact, 0, files.checks, tuple(files.differences))
    _attempt(files, _check_files, artifact, manifest, files)
    with ThreadPoolExecutor(len(RUNTIMES)) as pool:  # most time goes into optimizing graphs, which takes one core
        comparisons = [files, *pool.map(partial(_compare_in_runtime, artifact, manifest), RUNTIMES)]
    return VerificationReport(
        artifact=artifact,
        cases=len(manifest.certificate.cases) if manifest.certificate else 0,
        checks=sum(comparison.checks for comparison in comparisons),
        differences=tuple(item for comparison in comparisons for item in comparison.differences),
    )


def _attempt(comparison: Comparison, check: Callable[..., None], *arguments: object) -> None:
    """What cannot even be read is a difference too."""
    try:
        check(*arguments)
    except _UNREADABLE as error:
        comparison.equal("", "", "reading", "a readable artifact", f"{type(error).__name__}: {error}")


# --- files ------------------------------------------------------------------------------------------------------------


def _check_files(artifact: Path, manifest: Manifest, files: Comparison) -> None:
    graph = read_meta_graph(artifact)
    files.equal("", MANIFEST_ASSET, "signatures", dict(SIGNATURES), dict(manifest.signatures))
    files.equal("", MANIFEST_ASSET, "required_ops", required_ops(graph), manifest.required_ops)
    files.equal("", MANIFEST_ASSET, "parameter_count", _stored_parameters(artifact), manifest.parameter_count)
    cases = manifest.certificate.cases if manifest.certificate else ()
    files.equal("", MANIFEST_ASSET, f"{MINIMUM_GOLDEN_CASES} cases", True, len(cases) >= MINIMUM_GOLDEN_CASES)
    tokenizer = (artifact / ASSETS_FOLDER / TOKENIZER_ASSET).read_bytes()
    files.equal("", TOKENIZER_ASSET, "sha256", manifest.tokenizer.sha256, sha256(tokenizer))
    stored = signature_defs(graph)
    files.equal("", "saved_model.pb", "signatures", sorted(SIGNATURES), sorted(stored))
    for name in SIGNATURES.keys() & stored.keys():
        expected = SIGNATURES[name]
        files.equal(name, "saved_model.pb", "inputs", _specs(expected.inputs), _stored_specs(stored[name].inputs))
        files.equal(name, "saved_model.pb", "outputs", _specs(expected.outputs), _stored_specs(stored[name].outputs))


def _stored_parameters(artifact: Path) -> int:
    """Numbers in the checkpoint, TensorFlow's own book-keeping apart."""
    shapes = tf.train.load_checkpoint(str(artifact / "variables" / "variables")).get_variable_to_shape_map()
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.startswith("_CHECKPOINTABLE"))


def _specs(specs: Mapping[str, TensorSpec]) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Data type and shape by name, as the stored ones are told."""
    return {
        name: (spec.dtype, tuple(size if isinstance(size, int) else None for size in spec.shape))
        for name, spec in sorted(specs.items())
    }


def _stored_specs(infos: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    return {
        name: (tf.dtypes.as_dtype(info.dtype).name, tuple(tf.TensorShape(info.tensor_shape).as_list()))
        for name, info in sorted(infos.items())
    }


# --- runtimes ---------------------------------------------------------------------------------------------------------


def _compare_in_runtime(artifact: Path, manifest: Manifest, name: str) -> Comparison:
    comparison = Comparison(name)
    _attempt(comparison, _check_runtime, artifact, manifest, RUNTIMES[name], comparison)
    return comparison


def _check_runtime(
    artifact: Path,
    manifest: Manifest,
    runtime: Callable[[Path], AbstractContextManager[Mapping[str, Signature]]],
    comparison: Comparison,
) -> None:
    with runtime(artifact) as signatures:
        described = comparison.call(signatures, "describe", {"unused": text_array([""])})
        for name, asset in (("manifest", MANIFEST_ASSET), ("tokenizer", TOKENIZER_ASSET)):
            if described is not None:
                stored = sha256((artifact / ASSETS_FOLDER / asset).read_bytes())
                comparison.equal("describe", asset, "sha256", stored, sha256(described[name][0]))
        if manifest.certificate is not None:
            replay_certificate(signatures, manifest.certificate, manifest.framing, comparison)
        for name, inputs in read_warmup_records(artifact / WARMUP_RECORDS):
            comparison.call(signatures, name, inputs, WARMUP_RECORDS)
