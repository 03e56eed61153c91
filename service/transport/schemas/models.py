"""What is told of models, their versions and labels."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from service.transport.schemas.closed import Closed


class ModelVersionInfo(Closed):
    """One version of a model; what its manifest says is there once it is ready."""

    version: int
    state: Literal["loading", "ready", "refused"]
    reason: str | None = Field(None, description="Why it was refused.")
    replicas: dict[str, str] | None = Field(None, description="What each replica of the model server says of it.")
    architecture: str | None = None
    parameter_count: int | None = None
    dtype: str | None = None
    limits: dict[str, int] | None = None
    tokenizer: dict[str, Any] | None = None
    supported_options: list[str] | None = None
    provenance: dict[str, Any] | None = Field(None, description="Data, steps and metrics, as the trainer told them.")


class WeightedVersion(Closed):
    """One of the versions that a label stands for."""

    version: int
    weight: float = Field(ge=0, description="Its share is this of the sum.")


class RefusedLabel(Closed):
    """What the file of labels says and cannot be."""

    versions: list[WeightedVersion]
    reason: str


class LabelInfo(Closed):
    """A label, and the versions that answer requests which name it."""

    label: str
    versions: list[WeightedVersion] = Field(description="In force now; none where nothing that it stands for is ready.")
    refused: RefusedLabel | None = Field(None, description="What is to be in force, and why it is not yet.")


class ModelInfo(Closed):
    """One model."""

    name: str
    version: int | None = Field(
        description="The version that answers requests which name none; of several the likeliest."
    )
    versions: list[ModelVersionInfo] = Field(description="Newest first.")
    labels: list[LabelInfo]


class ModelList(Closed):
    """Every model, by name."""

    models: list[ModelInfo]
    labels_error: str | None = Field(
        None, description="What is wrong with the file of labels now; those read before are in force."
    )
