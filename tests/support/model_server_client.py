"""Calls to a model server by the official stubs, as tests make them."""

from __future__ import annotations

import http.client
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


class Served:
    """A server with its folder of models, and calls to it by the official stubs; and over REST, if that is told."""

    def __init__(self, address: str, root: Path, rest_address: str = "") -> None:
        self.root = root
        self.address = address
        self.rest_address = rest_address
        self.channel = grpc.insecure_channel(address)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(
        self,
        name: str = "toy",
        signature: str = "",
        *,
        spec: dict[str, Any] | None = None,
        only: tuple[str, ...] = (),
        timeout: float = 30.0,
        **inputs: Any,
    ) -> Any:
        """The answer; ``spec`` is more of the ModelSpec, ``only`` the output filter, an input a value or a proto."""
        request = predict_pb2.PredictRequest(
            model_spec={"name": name, "signature_name": signature, **(spec or {})}, output_filter=only
        )
        for alias, value in inputs.items():
            proto = value if hasattr(value, "tensor_shape") else tf.make_tensor_proto(value)
            request.inputs[alias].CopyFrom(proto)
        return self._predictions.Predict(request, timeout=timeout)

    def refusal(self, *arguments: Any, **keywords: Any) -> tuple[grpc.StatusCode, str]:
        """Status and text with which ``predict`` fails."""
        with pytest.raises(grpc.RpcError) as caught:
            self.predict(*arguments, **keywords)
        return caught.value.code(), caught.value.details()

    def status(self, name: str) -> dict[int, tuple[str, int, str]]:
        """State, code and text of the error, by version."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": name})
        response = self._models.GetModelStatus(request, timeout=10.0)
        states = get_model_status_pb2.ModelVersionStatus.State
        return {
            each.version: (states.Name(each.state), each.status.error_code, each.status.error_message)
            for each in response.model_version_status
        }

    def available(self, name: str) -> list[int]:
        return [version for version, (state, _, _) in self.status(name).items() if state == "AVAILABLE"]

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of ``GET /v1/models/...``."""
        connection = http.client.HTTPConnection(self.rest_address, timeout=10.0)
        connection.request("GET", path)
        with connection.getresponse() as response:
            assert response.headers["Content-Type"] == "application/json"
            return response.status, json.loads(response.read())

    def reload(self, *more: dict[str, Any], timeout: float = 60.0) -> None:
        """Every folder of the root by its defaults, and what is named: ``{"name": ..., "version_labels": ...}``."""
        named = [config["name"] for config in more]
        folders = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        rest = [{"name": name} for name in folders if name not in named]
        self.reload_exactly(*rest, *more, timeout=timeout)

    def reload_exactly(self, *models: dict[str, Any], timeout: float = 60.0) -> None:
        request = model_management_pb2.ReloadConfigRequest()
        if models:
            request.config.model_config_list.SetInParent()
        for model in models:
            defaults = {"base_path": str(self.root / model["name"]), "model_platform": "tensorflow"}
            request.config.model_config_list.config.add(**{**defaults, **model})
        self._models.HandleReloadConfigRequest(request, timeout=timeout)

    def close(self) -> None:
        self.channel.close()


def eventually(check: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """TF Serving looks at its folders once a second, and loads take their time."""
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, f"{what}: not within {timeout_s} s"
        time.sleep(0.02)


def add_version(model: Path, toys: Path, version: int, *, lacks: str = "") -> Path:
    """At once, as a version is to be published: a half-copied one would be loaded. ``lacks``: without this file."""
    folder = model / str(version)
    hidden = model / f".{version}"
    shutil.copytree(toys / "toy" / str(version), hidden, ignore=shutil.ignore_patterns(lacks))
    return hidden.rename(folder)
