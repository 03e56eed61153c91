"""Which versions of which models are loaded: TF Serving's model configurations, version policies and labels."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_pb2
from tensorflow_serving.config import model_server_config_pb2

from tests.support.model_server_faults import StatusError
from tests.support.model_server_session import LoadedVersion, invalid

State = get_model_status_pb2.ModelVersionStatus.State
_CONFIG_POLL_S = 0.02


class ModelsUnavailable(Exception):
    """Some models did not load at the start; TF Serving then exits."""


@dataclass
class _Version:
    state: int
    error: StatusError | None = None
    given_up: bool = False  # not tried again before its folder was gone
    loaded: LoadedVersion | None = None


@dataclass
class _Model:
    """Versions of one model, those that were loaded once and those that failed included."""

    versions: dict[int, _Version] = field(default_factory=dict)

    def available(self) -> list[int]:
        """Newest first."""
        return sorted((number for number, each in self.versions.items() if each.state == State.AVAILABLE), reverse=True)


class Models:
    """Loads what the configuration asks for, looks at the folders again and again, and finds what a request names.

    Args:
        config: the models; every ``base_path`` is absolute.
        load: makes a loaded version of name, number and folder, or raises StatusError.
        poll_s: pause between two looks at the folders.
        retries: of a load that failed.
        retry_s: pause before each of them.
        allow_labels: new labels may name versions that are not available.
    """

    def __init__(
        self,
        config: Any,
        load: Callable[[str, int, Path], LoadedVersion],
        *,
        poll_s: float,
        retries: int,
        retry_s: float,
        allow_labels: bool,
    ) -> None:
        self._load = load
        self._poll_s = poll_s
        self._retries = retries
        self._retry_s = retry_s
        self._allow_labels = allow_labels
        self._models: dict[str, _Model] = {}
        self._config = model_server_config_pb2.ModelConfigList()
        self._labels: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()  # of the fields above
        self._reloading = threading.Lock()  # held while a reload waits for its models
        self._closed = threading.Event()
        self._poller = threading.Thread(target=self._poll_forever, daemon=True)
        self._accept(config)

    def start(self) -> None:
        """Load every model, then go on looking for versions.

        Raises:
            ModelsUnavailable: not all could be loaded.
        """
        self._poller.start()
        for failure in self._wait_for([config.name for config in self._config.config]):
            raise ModelsUnavailable(failure)

    def close(self) -> None:
        """Look no more, and free what is loaded."""
        self._closed.set()
        self._poller.join()
        self._models.clear()

    # --- requests -----------------------------------------------------------------------------------------------------

    def find(self, spec: model_pb2.ModelSpec) -> LoadedVersion:
        """The version that a request names, or StatusError."""
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        with self._lock:
            wanted: int | None = None
            if spec.version_label:
                if spec.version_label not in self._labels.get(spec.name, {}):
                    raise invalid(f"Unrecognized servable version label: {spec.version_label}")
                wanted = self._labels[spec.name][spec.version_label]
            elif spec.HasField("version"):
                wanted = spec.version.value
            model = self._models.get(spec.name, _Model())
            for number in model.available():
                if wanted in (None, number):
                    loaded = model.versions[number].loaded
                    assert loaded is not None
                    return loaded
        named = f"Latest({spec.name})" if wanted is None else f"Specific({spec.name}, {wanted})"
        raise StatusError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {named}")

    def status(self, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
        """Every version that there is or was, newest first; or the one that the request names."""
        response = get_model_status_pb2.GetModelStatusResponse()
        with self._lock:
            versions = self._models.get(spec.name, _Model()).versions
            if spec.HasField("version") and spec.version.value not in versions:
                message = f"Could not find version {spec.version.value} of model {spec.name}"
                raise StatusError(grpc.StatusCode.NOT_FOUND, message)
            if not versions:
                raise StatusError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}")
            for number in sorted(versions, reverse=True):
                if spec.HasField("version") and spec.version.value != number:
                    continue
                version = versions[number]
                status = response.model_version_status.add(version=number, state=version.state)
                if version.error is not None:
                    status.status.error_code = version.error.code.value[0]
                    status.status.error_message = version.error.message
                else:
                    status.status.SetInParent()
        return response

    def reload(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        """Take another list of models and labels, and wait until the new models are loaded; or raise StatusError.

        A new model whose folder is missing is waited for without end, and every later reload with it.
        """
        if config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        with self._reloading:
            known = {each.name for each in self._config.config}
            self._accept(config.model_config_list)
            for failure in self._wait_for([each.name for each in self._config.config if each.name not in known]):
                raise StatusError(grpc.StatusCode.UNKNOWN, failure)

    # --- the configuration --------------------------------------------------------------------------------------------

    def _accept(self, config: Any) -> None:
        names: set[str] = set()
        for model in config.config:
            if model.name in names:
                raise invalid(f"Illegal to list model {model.name} multiple times in config list")
            names.add(model.name)
            if not Path(model.base_path).is_absolute():
                raise invalid(
                    f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
                )
            if model.model_platform != "tensorflow":
                raise invalid(f"Model {model.name} requests unsupported platform {model.model_platform}")
        with self._lock:
            for model in config.config:
                available = self._models.get(model.name, _Model()).available()
                before = self._labels.get(model.name, {})
                for label, number in model.version_labels.items():
                    is_moved = before.get(label, number) != number
                    if number not in available and (is_moved or not self._allow_labels):
                        raise StatusError(
                            grpc.StatusCode.FAILED_PRECONDITION,
                            f"Request to assign label to version {number} of model {model.name}, which is not "
                            f"currently available for inference; label: {label}",
                        )
            for name in names - {model.name for model in self._config.config}:
                for version in self._models.get(name, _Model()).versions.values():
                    version.given_up = False  # it was here before, and is new again
            self._labels = {model.name: dict(model.version_labels) for model in config.config}
            self._config = config

    def _wait_for(self, names: list[str]) -> Iterator[str]:
        """Until every one has an available version; yields what went wrong, if something did."""
        while not self._closed.wait(_CONFIG_POLL_S):
            with self._lock:
                models = [self._models.get(name, _Model()) for name in names]
                failed = [
                    f"{{name: {name} version: {number}}}"
                    for name, model in zip(names, models, strict=True)
                    for number, version in model.versions.items()
                    if version.given_up and not model.available()
                ]
                done = all(model.available() for model in models)
            if failed:
                yield f"Some models did not become available: {{{', '.join(failed)}, }}"
            if done or failed:
                return

    # --- the folders --------------------------------------------------------------------------------------------------

    def _poll_forever(self) -> None:
        reported: list[Any] = []
        while not self._closed.is_set():
            with self._lock:
                config = self._config
            configured = {model.name for model in config.config}
            missing = [model for model in config.config if not Path(model.base_path).exists()]
            if missing and missing != reported:
                named = f"{missing[0].base_path} for servable {missing[0].name}"
                print(f"Could not find base path {named}", file=sys.stderr, flush=True)
            reported = missing
            # One that is missing keeps all the others as they are.
            for name in set(self._models) - configured if missing else set(self._models) | configured:
                self._update(name)
            end = time.monotonic() + self._poll_s
            while config is self._config and time.monotonic() < end and not self._closed.wait(_CONFIG_POLL_S):
                pass

    def _update(self, name: str) -> None:
        """Load what the policy wants; unload what it does not, but the last version only when it wants none at all."""
        wanted = self._wanted(name)
        with self._lock:
            model = self._models.get(name, _Model())
            new = [
                number
                for number in wanted
                if number not in model.versions
                or (model.versions[number].state == State.END and not model.versions[number].given_up)
            ]
            for number, version in model.versions.items():
                if number not in wanted:
                    version.given_up = False
        for number in sorted(new):
            self._load_version(name, number)
        with self._lock:
            model = self._models.get(name, _Model())
            if wanted and not set(wanted) & set(model.available()):
                return
            for number in set(model.available()) - set(wanted):
                model.versions[number] = _Version(State.END)

    def _wanted(self, name: str) -> dict[int, Path]:
        """Folders of the versions that the policy of a model asks for."""
        for model in self._config.config:
            if model.name == name:
                break
        else:
            return {}
        folders = {int(path.name): path for path in Path(model.base_path).glob("*") if path.name.isdigit()}
        policy = model.model_version_policy
        kind = policy.WhichOneof("policy_choice") or "latest"
        if kind == "all":
            return folders
        if kind == "specific":
            return {number: path for number, path in folders.items() if number in policy.specific.versions}
        count = policy.latest.num_versions or 1
        return dict(sorted(folders.items(), reverse=True)[:count])

    def _load_version(self, name: str, number: int) -> None:
        version = _Version(State.LOADING)
        with self._lock:
            self._models.setdefault(name, _Model()).versions[number] = version
        for attempt in range(self._retries + 1):
            if attempt and not self._pause_before_retry(name, number):
                break
            try:
                loaded = self._load(name, number, self._wanted(name).get(number, Path("missing")))
            except StatusError as error:
                failure = error
                print(f"Loading servable: {{name: {name} version: {number}}} failed: {error}", file=sys.stderr)
            else:
                with self._lock:
                    version.loaded, version.state = loaded, State.AVAILABLE
                return
        with self._lock:
            version.error, version.state, version.given_up = failure, State.END, True

    def _pause_before_retry(self, name: str, number: int) -> bool:
        """False: nobody wants the version any more."""
        end = time.monotonic() + self._retry_s
        while time.monotonic() < end:
            if self._closed.wait(_CONFIG_POLL_S) or number not in self._wanted(name):
                return False
        return True
