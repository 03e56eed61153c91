"""Export: a trained model becomes ``<root>/<name>/<version>/``, certified before anybody can see it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import tensorflow as tf

from model_export.artifact.calls import Signature, on_arrays
from model_export.artifact.compaction import compact
from model_export.artifact.golden_texts import golden_texts
from model_export.artifact.goldens import NOISE, NoisyStep, make_certificate, plain_rows
from model_export.artifact.goldens import STAGE as CERTIFYING
from model_export.artifact.machine import check_machine
from model_export.artifact.reloaded import quick_first_calls, read_meta_graph, required_ops
from model_export.artifact.serving_module import FRAMING, SPECIAL_IDS, ServingModule
from model_export.artifact.versions import model_folder, publish, staging_folder
from model_export.artifact.warmup import write_warmup_records
from model_export.calibration import StaticScales
from model_export.config import UserError
from model_export.contract import (
    ASSETS_FOLDER,
    IDS_ONLY,
    MANIFEST_ASSET,
    SIGNATURES,
    SUPPORTED_OPTIONS,
    TOKENIZER_ASSET,
    CpuFeatures,
    Dtype,
    Limits,
    Manifest,
    TokenizerInfo,
    sha256,
)
from model_export.models.precision import Precision
from model_export.text.progress import OnProgress, silent
from model_export.text.tokenizers import SentencePieceTokenizer
from model_export.trained_model import TrainedModel
from model_export.verify import STAGE as VERIFYING
from model_export.verify import verify

STAGES: Final = ("tracing the graph", CERTIFYING, "saving", VERIFYING)
"""What ``export_model`` tells its ``on_progress``, in this order."""
_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
CPU_FEATURES: Final[Mapping[Dtype, CpuFeatures]] = {
    "float32": CpuFeatures(),
    "bfloat16": CpuFeatures(_AVX512, fast=("avx512_bf16", "amx_bf16")),
    "int8": CpuFeatures((*_AVX512, "avx512_vnni")),
}
"""What oneDNN wants for the kernels of ``models.kernels`` (measured: docs/decisions/0020)."""


class ExportError(UserError):
    """The reloaded artifact does not answer as the live model."""


def export_model(
    trained: TrainedModel,
    root: Path,
    name: str,
    version: int | None = None,
    on_progress: OnProgress = silent,
    ids_only: bool = False,
    dtype: Dtype = "float32",
    scales: StaticScales | None = None,
) -> Path:
    """Write one version of a model; returns its folder.

    Everything is written to a hidden folder beside it, verified there, and renamed: a server that watches ``root``
    sees the whole version or none.

    Args:
        trained: what to export; its model is packed for decoding.
        root: the folder of all models.
        name: the model's; letters, digits, ``.``, ``_`` and ``-``.
        version: 1 or more; the next free integer when not given.
        on_progress: called in each of ``STAGES``.
        ids_only: leave out the signatures that take or give texts, and with them TF Text, which not every server has.
        dtype: what its linear layers are stored and computed in.
        scales: of int8; without them each row of inputs is scaled by itself.

    Raises:
        ValueError: scales for another dtype than int8.
        MachineError: this machine has no kernel for ``dtype``, so that nothing could be certified.
        VersionError: the name or version cannot be used.
        ExportError: the reloaded artifact differs from the live model.
        GoldenError: the model's answers are not robust enough to certify.
    """
    if scales is not None and dtype != "int8":
        raise ValueError(f"static scales are for int8, not for {dtype}")
    check_dtype(dtype)
    folder = model_folder(root, name, version)
    wanted = _Wanted(name, IDS_ONLY if ids_only else tuple(SIGNATURES), dtype, scales)
    with staging_folder(folder) as staging, quick_first_calls():
        _write_artifact(trained, staging, wanted, on_progress)
        report = verify(staging, on_progress)
        if not report.passed:
            shown = "; ".join(str(difference) for difference in report.differences[:3])
            raise ExportError(f"the exported graph differs in {len(report.differences)} places: {shown}")
        return publish(staging, folder, version)


def check_dtype(dtype: Dtype) -> None:
    """Whether this machine can export it: what is written is run to certify it.

    Raises:
        MachineError: it has no kernel for ``dtype``.
    """
    check_machine(dtype, CPU_FEATURES[dtype])


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What to write."""

    name: str
    signatures: Sequence[str]  # of these those that the model has
    dtype: Dtype
    scales: StaticScales | None


def _write_artifact(trained: TrainedModel, staging: Path, wanted: _Wanted, on_progress: OnProgress) -> None:
    noise = NOISE[wanted.dtype]
    limits = Limits(**trained.config.limits.model_dump())
    tokenizer = SentencePieceTokenizer(trained.tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        assets = Path(scratch)
        (assets / TOKENIZER_ASSET).write_bytes(trained.tokenizer)
        (assets / MANIFEST_ASSET).touch()  # written at last, when all is known
        weights = trained.model.pack(Precision(wanted.dtype, wanted.scales.ranges if wanted.scales else None))
        module = ServingModule(trained.model, weights, tokenizer, limits, assets)
        step = NoisyStep(trained.model.decoder_step(), noise.logits)
        noisy = ServingModule(trained.model, weights, tokenizer, limits, assets, step)
        live, noisy_answers = _traced(module, noisy, on_progress)
        texts = golden_texts(trained.samples, tokenizer)
        certificate = make_certificate(live, noisy_answers, texts, limits, on_progress, noise)
        on_progress(STAGES[2], 0, 0)
        signatures = [key for key in wanted.signatures if key in module.functions]
        saved = module if "tokenize" in signatures else module.without_tokenizer()
        tf.saved_model.save(saved, str(staging), signatures={key: module.functions[key] for key in signatures})
    compact(staging)
    manifest = _manifest(trained, wanted, limits, tokenizer, signatures)
    manifest = replace(manifest, required_ops=required_ops(read_meta_graph(staging)), certificate=certificate)
    (staging / ASSETS_FOLDER / MANIFEST_ASSET).write_text(manifest.to_json(), encoding="utf-8")
    write_warmup_records(staging, plain_rows(live["tokenize"], texts[0].samples, limits), manifest)


def _traced(
    module: ServingModule, noisy: ServingModule, on_progress: OnProgress
) -> tuple[dict[str, Signature], Signature]:
    """Every signature of ``module``, and ``generate_ids`` of ``noisy``."""
    live: dict[str, Signature] = {}
    for name in module.functions:
        on_progress(STAGES[0], len(live), len(module.functions) + 1)
        live[name] = on_arrays(module.functions[name])
    on_progress(STAGES[0], len(live), len(module.functions) + 1)
    return live, on_arrays(noisy.functions["generate_ids"])


def _manifest(
    trained: TrainedModel,
    wanted: _Wanted,
    limits: Limits,
    tokenizer: SentencePieceTokenizer,
    signatures: Sequence[str],
) -> Manifest:
    """All but what the saved graph tells, and the certificate."""
    return Manifest(
        model_name=wanted.name,
        architecture=trained.config.model.name,
        parameter_count=trained.model.count_params(),
        special_ids=SPECIAL_IDS,
        framing=FRAMING,
        limits=limits,
        tokenizer=TokenizerInfo(
            kind="sentencepiece",
            sha256=sha256(trained.tokenizer),
            vocabulary_size=tokenizer.vocabulary_size,
            byte_fallback=tokenizer.byte_fallback,
        ),
        supported_options=SUPPORTED_OPTIONS,
        dtype=wanted.dtype,
        cpu_features=CPU_FEATURES[wanted.dtype],
        calibration=wanted.scales.source if wanted.scales else None,
        required_ops=(),
        signatures={key: SIGNATURES[key] for key in signatures},
        mixed_beam_sizes=True,
        provenance=trained.report,
    )
