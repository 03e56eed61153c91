"""Answers of the engine -> the JSON values that ``schemas`` describes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from service.backend import ModelVersion, VersionState
from service.generation import Generation, Hypothesis, RowOutput, Tokenization


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
    }


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


def tokenization(model: str, version: int, outputs: Sequence[Tokenization]) -> dict[str, Any]:
    """``TokenizeResponse``."""
    return {
        "model_name": model,
        "model_version": version,
        "outputs": [{"ids": output.ids, "pieces": output.pieces} for output in outputs],
    }


def detokenization(model: str, version: int, texts: Sequence[str]) -> dict[str, Any]:
    """``DetokenizeResponse``."""
    return {"model_name": model, "model_version": version, "texts": texts}


def models(versions: Sequence[ModelVersion]) -> list[dict[str, Any]]:
    """A ``ModelInfo`` for each model; ``versions`` by name, newest first."""
    return [_model(name, list(found)) for name, found in groupby(versions, key=lambda version: version.name)]


def _model(name: str, versions: Sequence[ModelVersion]) -> dict[str, Any]:
    ready = [version.version for version in versions if version.state is VersionState.READY]
    return {"name": name, "version": ready[0] if ready else None, "versions": [_version(each) for each in versions]}


def _version(version: ModelVersion) -> dict[str, Any]:
    fields: dict[str, Any] = {"version": version.version, "state": version.state.value}
    if version.reason is not None:
        fields["reason"] = version.reason
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
