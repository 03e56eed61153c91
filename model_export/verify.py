"""Verification of an exported artifact: is it what its manifest says, and does it answer as the live model did?

The certificate is replayed through the reloaded SavedModel twice: by ``tf.saved_model.load``, and by a TF1 session,
which is how TF Serving runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

import tensorflow as tf

from model_export.artifact.calls import Arrays, Signature, text_array
from model_export.artifact.machine import check_machine
from model_export.artifact.reloaded import (
    in_session,
    loaded,
    quick_first_calls,
    read_meta_graph,
    required_ops,
    signature_defs,
)
from model_export.artifact.replay import Comparison, Difference, replay_certificate
from model_export.artifact.warmup import read_warmup_records
from model_export.config import UserError
from model_export.contract import (
    ASSETS_FOLDER,
    IDS_ONLY,
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
from model_export.text.progress import OnProgress, silent

STAGE: Final = "replaying the certificate"
"""What ``verify`` tells its ``on_progress``, with the signatures that have answered in either runtime."""
RUNTIMES: Final[Mapping[str, Callable[[Path], AbstractContextManager[Mapping[str, Signature]]]]] = {
    "saved_model.load": loaded,
    "session": in_session,
}
_SCORING: Final = {"score", "score_ids"}
_SIGNATURE_SETS: Final = (
    SIGNATURES.keys(),
    SIGNATURES.keys() - {"align"},  # of a model without attention
    set(IDS_ONLY),
    SIGNATURES.keys() - {"align"} - _SCORING,  # of an export that knew no scoring yet
    set(IDS_ONLY) - _SCORING,
)
"""What an artifact may have."""
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


def verify(artifact: Path, on_progress: OnProgress = silent) -> VerificationReport:
    """Check the files of ``<root>/<model>/<version>/`` and replay its certificate in every runtime.

    Raises:
        VerifyError: the folder is no artifact.
        MachineError: this machine has no kernel for it.
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
    check_machine(manifest.dtype, manifest.cpu_features)
    _attempt(files, _check_files, artifact, manifest, files)
    answered = _FirstAnswers(on_progress, len(RUNTIMES) * len(manifest.signatures))

    def compare(runtime: str) -> Comparison:
        comparison = Comparison(runtime)
        _attempt(comparison, _check_runtime, artifact, manifest, comparison, answered)
        return comparison

    # Side by side: most of the time goes into optimizing graphs, which takes one core.
    with quick_first_calls(), ThreadPoolExecutor(len(RUNTIMES)) as pool:
        comparisons = [files, *pool.map(compare, RUNTIMES)]
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
    promised = manifest.signatures if manifest.signatures.keys() in _SIGNATURE_SETS else SIGNATURES
    files.equal("", MANIFEST_ASSET, "signatures", {name: SIGNATURES[name] for name in promised}, manifest.signatures)
    files.equal("", MANIFEST_ASSET, "required_ops", required_ops(graph), manifest.required_ops)
    cases = manifest.certificate.cases if manifest.certificate else ()
    files.equal("", MANIFEST_ASSET, f"{MINIMUM_GOLDEN_CASES} cases", True, len(cases) >= MINIMUM_GOLDEN_CASES)
    tokenizer = (artifact / ASSETS_FOLDER / TOKENIZER_ASSET).read_bytes()
    files.equal("", TOKENIZER_ASSET, "sha256", manifest.tokenizer.sha256, sha256(tokenizer))
    stored = signature_defs(graph)
    files.equal("", "saved_model.pb", "signatures", sorted(promised), sorted(stored))
    for name in SIGNATURES.keys() & stored.keys():
        expected = SIGNATURES[name]
        files.equal(name, "saved_model.pb", "inputs", _specs(expected.inputs), _stored_specs(stored[name].inputs))
        files.equal(name, "saved_model.pb", "outputs", _specs(expected.outputs), _stored_specs(stored[name].outputs))


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


class _FirstAnswers:
    """Tells how many signatures have answered in any runtime: the first call of each is what takes time."""

    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self._on_progress = on_progress
        self._total = total
        self._seen: set[tuple[str, str]] = set()
        self._lock = Lock()
        on_progress(STAGE, 0, total)

    def of(self, runtime: str, signatures: Mapping[str, Signature]) -> dict[str, Signature]:
        """The same signatures, watched."""
        return {name: self._watched(runtime, name, signature) for name, signature in signatures.items()}

    def _watched(self, runtime: str, name: str, signature: Signature) -> Signature:
        def watched(inputs: Arrays) -> Arrays:
            outputs = signature(inputs)
            with self._lock:
                if (runtime, name) not in self._seen:
                    self._seen.add((runtime, name))
                    self._on_progress(STAGE, len(self._seen), self._total)
            return outputs

        return watched


def _check_runtime(artifact: Path, manifest: Manifest, comparison: Comparison, answered: _FirstAnswers) -> None:
    with RUNTIMES[comparison.where](artifact) as unwatched:
        signatures = answered.of(comparison.where, unwatched)
        described = comparison.call(signatures, "describe", {"unused": text_array([""])})
        for name, asset in (("manifest", MANIFEST_ASSET), ("tokenizer", TOKENIZER_ASSET)):
            if described is not None:
                stored = sha256((artifact / ASSETS_FOLDER / asset).read_bytes())
                comparison.equal("describe", asset, "sha256", stored, sha256(described[name][0]))
        if manifest.certificate is not None:
            replay_certificate(signatures, manifest, comparison)
        for name, inputs in read_warmup_records(artifact / WARMUP_RECORDS):
            comparison.call(signatures, name, inputs, WARMUP_RECORDS)
