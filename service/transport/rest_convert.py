"""Answers of the engine -> the JSON values that ``schemas`` describes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from service.backend import ModelVersion
from service.engine import LabelStatus, ModelStatus
from service.generation import (
    Detokenization,
    Generation,
    Hypothesis,
    RowOutput,
    ScoredTarget,
    Scoring,
    Tokenization,
)


def generation(answer: Generation, request_id: str) -> dict[str, Any]:
    """``GenerateResponse``."""
    return {
        "id": request_id,
        "model_name": answer.model,
        "model_version": answer.version,
        "outputs": [_output(output) for output in answer.outputs],
    }


def _output(output: RowOutput) -> dict[str, Any]:
    best = output.hypotheses[0]
    return {
        "generated_text": best.text,
        "finish_reason": best.finish_reason.value,
        "input_tokens": output.input_tokens,
        "generated_tokens": best.generated_tokens,
        "score": best.score,
        "perplexity": best.perplexity,
        "hypotheses": [_hypothesis(hypothesis) for hypothesis in output.hypotheses],
        "warnings": output.warnings,
    } | ({} if output.seed is None else {"seed": output.seed})


def _hypothesis(hypothesis: Hypothesis) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "text": hypothesis.text,
        "finish_reason": hypothesis.finish_reason.value,
        "generated_tokens": hypothesis.generated_tokens,
        "score": hypothesis.score,
        "normalized_score": hypothesis.normalized_score,
        "perplexity": hypothesis.perplexity,
    }
    if hypothesis.tokens is not None:
        fields["tokens"] = [
            {"id": token.id, "piece": token.piece, "log_prob": token.log_prob} for token in hypothesis.tokens
        ]
    return fields


def scoring(answer: Scoring, request_id: str) -> dict[str, Any]:
    """``ScoreResponse``."""
    return {
        "id": request_id,
        "model_name": answer.model,
        "model_version": answer.version,
        "outputs": [_scored(output) for output in answer.outputs],
    }


def _scored(output: ScoredTarget) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "score": output.score,
        "perplexity": output.perplexity,
        "input_tokens": output.input_tokens,
        "target_tokens": output.target_tokens,
        "warnings": output.warnings,
    }
    if output.tokens is not None:
        fields["tokens"] = [
            {"id": token.id, "piece": token.piece, "log_prob": token.log_prob, "rank": token.rank}
            for token in output.tokens
        ]
    if output.attention is not None:
        fields |= {"input_pieces": output.input_pieces, "alignment": output.attention}
    return fields


def tokenization(answer: Tokenization) -> dict[str, Any]:
    """``TokenizeResponse``."""
    return {
        "model_name": answer.model,
        "model_version": answer.version,
        "outputs": [{"ids": output.ids, "pieces": output.pieces} for output in answer.outputs],
    }


def detokenization(answer: Detokenization) -> dict[str, Any]:
    """``DetokenizeResponse``."""
    return {"model_name": answer.model, "model_version": answer.version, "texts": answer.texts}


def model_list(models: Sequence[ModelStatus], labels_error: str | None) -> dict[str, Any]:
    """``ModelList``."""
    fields: dict[str, Any] = {"models": [model(each) for each in models]}
    if labels_error is not None:
        fields["labels_error"] = labels_error
    return fields


def model(status: ModelStatus) -> dict[str, Any]:
    """``ModelInfo``."""
    return {
        "name": status.name,
        "version": status.default,
        "versions": [_version(version) for version in status.versions],
        "labels": [_label(label) for label in status.labels],
    }


def _label(status: LabelStatus) -> dict[str, Any]:
    fields: dict[str, Any] = {"label": status.label, "versions": _weights(status.in_force)}
    if status.refused is not None:
        fields["refused"] = {"versions": _weights(status.wanted), "reason": status.refused}
    return fields


def _weights(versions: Mapping[int, float]) -> list[dict[str, Any]]:
    return [{"version": version, "weight": weight} for version, weight in versions.items()]


def _version(version: ModelVersion) -> dict[str, Any]:
    fields: dict[str, Any] = {"version": version.version, "state": version.state.value}
    if version.reason is not None:
        fields["reason"] = version.reason
    if version.replicas is not None:
        fields["replicas"] = dict(version.replicas)
    if version.manifest is not None:
        manifest = version.manifest
        fields |= {
            "architecture": manifest.architecture,
            "parameter_count": manifest.parameter_count,
            "dtype": manifest.dtype,
            "limits": asdict(manifest.limits),
            "tokenizer": asdict(manifest.tokenizer),
            "supported_options": manifest.supported_options,
            "provenance": _finite(manifest.provenance),
        }
    return fields


def _finite(value: Any) -> Any:
    """A report as JSON can hold it: null for a metric that is infinite or no number."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
