"""Export: a trained model becomes ``<root>/<name>/<version>/``, certified before anybody can see it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import tensorflow as tf

from model_export.artifact.calls import on_arrays
from model_export.artifact.golden_texts import golden_texts
from model_export.artifact.goldens import LOGIT_NOISE, NoisyStep, make_certificate, plain_rows
from model_export.artifact.reloaded import read_meta_graph, required_ops
from model_export.artifact.serving_module import FRAMING, SPECIAL_IDS, ServingModule
from model_export.artifact.versions import model_folder, publish, staging_folder
from model_export.artifact.warmup import write_warmup_records
from model_export.config import UserError
from model_export.contract import (
    ASSETS_FOLDER,
    MANIFEST_ASSET,
    SIGNATURES,
    SUPPORTED_OPTIONS,
    TOKENIZER_ASSET,
    Limits,
    Manifest,
    TokenizerInfo,
    sha256,
)
from model_export.text.tokenizers import SentencePieceTokenizer
from model_export.trained_model import TrainedModel
from model_export.verify import verify

STAGES: Final = ("tracing the graph", "making the certificate", "saving", "verifying")
"""What ``export_model`` tells its ``progress``, in this order."""


class ExportError(UserError):
    """The reloaded artifact does not answer as the live model."""


def export_model(
    trained: TrainedModel,
    root: Path,
    name: str,
    version: int | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Path:
    """Write one version of a model; returns its folder.

    Everything is written to a hidden folder beside it, verified there, and renamed: a server that watches ``root``
    sees the whole version or none.

    Args:
        trained: what to export.
        root: the folder of all models.
        name: the model's; letters, digits, ``.``, ``_`` and ``-``.
        version: 1 or more; the next free integer when not given.
        progress: called at the start of each of ``STAGES``.

    Raises:
        VersionError: the name or version cannot be used.
        ExportError: the reloaded artifact differs from the live model.
        GoldenError: the model's answers are not robust enough to certify.
    """
    folder = model_folder(root, name, version)
    with staging_folder(folder) as staging:
        _write_artifact(trained, staging, name, progress)
        progress(STAGES[3])
        report = verify(staging)
        if not report.passed:
            shown = "; ".join(str(difference) for difference in report.differences[:3])
            raise ExportError(f"the exported graph differs in {len(report.differences)} places: {shown}")
        return publish(staging, folder, version)


def _write_artifact(trained: TrainedModel, staging: Path, name: str, progress: Callable[[str], None]) -> None:
    limits = Limits(**trained.config.limits.model_dump())
    tokenizer = SentencePieceTokenizer(trained.tokenizer)
    manifest = _manifest(trained, name, limits, tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        assets = Path(scratch)
        (assets / TOKENIZER_ASSET).write_bytes(trained.tokenizer)
        (assets / MANIFEST_ASSET).write_text(manifest.to_json(), encoding="utf-8")
        weights = [weight.value for weight in trained.model.weights]
        step = trained.model.decoder_step()
        progress(STAGES[0])
        module = ServingModule(step, weights, tokenizer, limits, assets)
        noisy = ServingModule(NoisyStep(step, LOGIT_NOISE), weights, tokenizer, limits, assets)
        live = {signature: on_arrays(function) for signature, function in module.functions.items()}
        noisy_answers = on_arrays(noisy.functions["generate_ids"])
        progress(STAGES[1])
        texts = golden_texts(trained.samples, tokenizer)
        certificate = make_certificate(live, noisy_answers, texts, limits)
        progress(STAGES[2])
        tf.saved_model.save(module, str(staging), signatures=dict(module.functions))
    manifest = replace(manifest, required_ops=required_ops(read_meta_graph(staging)), certificate=certificate)
    (staging / ASSETS_FOLDER / MANIFEST_ASSET).write_text(manifest.to_json(), encoding="utf-8")
    write_warmup_records(staging, name, plain_rows(live["tokenize"], texts.samples, limits), limits)


def _manifest(trained: TrainedModel, name: str, limits: Limits, tokenizer: SentencePieceTokenizer) -> Manifest:
    """All that is known before the graph is saved."""
    return Manifest(
        model_name=name,
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
        dtype="float32",
        required_ops=(),
        signatures=SIGNATURES,
        provenance=trained.report,
    )
