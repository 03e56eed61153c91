"""Models in this process: a folder laid out as TF Serving's model base path, ``<root>/<model>/<version>/``.

The newest version of each model that loads, keeps its certificate and is warm answers; a newer one that does not is
REFUSED, with its reason. TensorFlow runs each call on one thread, and as many calls at once as there are slots: on two
cores that gives twice the tokens of one call on two threads.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from model_export.contract import SIGNATURES, ContractError, GoldenCase, Manifest
from service import certificate
from service.backend import Arrays, ModelVersion, VersionState, pad_ids
from service.backends.saved_model import SavedModel, one_line, tensorflow
from service.backends.signatures import check_inputs
from service.errors import BackendFailed, BackendUnavailable, ModelNotFound, ServiceError
from service.telemetry import log_event

REQUIRED_SIGNATURES: Final = ("generate_ids", "describe")
"""What the gateway cannot do without."""
WARM_UP_TOKENS: Final = 8
"""New tokens of a warm-up call: enough to run every part of the graph, few enough not to delay the start."""

Result = TypeVar("Result")


class EmbeddedBackend:
    """Runs SavedModels on this machine's cores."""

    def __init__(self, root: Path, *, slots: int, intra_op_threads: int, max_batch_rows: int) -> None:
        """Nothing is read or imported before ``start``.

        Args:
            root: folder of models.
            slots: calls that run at the same time; also TensorFlow's inter-op threads.
            intra_op_threads: threads within one operation of a call.
            max_batch_rows: the largest batch that will come, for the warm-up.
        """
        self._root = root
        self._slots = slots
        self._max_batch_rows = max_batch_rows
        self._open = functools.partial(SavedModel, intra_op_threads=intra_op_threads, inter_op_threads=slots)
        self._executor = ThreadPoolExecutor(slots, thread_name_prefix="malgil-model")
        self._versions: dict[tuple[str, int], ModelVersion] = {}
        self._models: dict[tuple[str, int], SavedModel] = {}
        self._closed = False

    @property
    def slots(self) -> int:
        """As in ``Backend``."""
        return self._slots

    async def start(self) -> None:
        """Load, certify and warm up the newest good version of every model.

        Raises:
            BackendUnavailable: the folder is missing or holds no model, or TensorFlow is not installed.
        """
        found = find_models(self._root)
        for name, versions in found.items():
            self._set(name, versions[0], VersionState.LOADING)
        await self._in_thread(tensorflow)
        await asyncio.gather(*(self._start_model(name, versions) for name, versions in found.items()))

    async def close(self) -> None:
        """As in ``Backend``."""
        self._closed = True
        # Sessions first: that ends their runs, which nobody waits for any more but which may have minutes to go.
        await asyncio.to_thread(self._close_models)
        await asyncio.to_thread(self._executor.shutdown)
        self._close_models()  # one that became ready meanwhile
        self._models.clear()

    def versions(self) -> Sequence[ModelVersion]:
        """As in ``Backend``."""
        return sorted(self._versions.values(), key=lambda item: (item.name, -item.version))

    async def predict(
        self, name: str, version: int, signature: str, inputs: Arrays, timeout_s: float | None = None
    ) -> dict[str, NDArray[np.generic]]:
        """As in ``Backend``."""
        model = self._models.get((name, version))
        if model is None:
            raise ModelNotFound(f"no version {version} of a model {name!r} is ready")
        return await self._run(model, signature, inputs, timeout_s)

    def _close_models(self) -> None:
        for model in list(self._models.values()):
            model.close()

    async def _run(
        self, model: SavedModel, signature: str, inputs: Arrays, timeout_s: float | None = None
    ) -> dict[str, NDArray[np.generic]]:
        if signature not in SIGNATURES:
            raise BackendFailed(f"there is no signature {signature!r}")
        check_inputs(signature, SIGNATURES[signature], inputs)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return await self._in_thread(model.run, signature, inputs, deadline)

    async def _in_thread(self, function: Callable[..., Result], *arguments: object) -> Result:
        if self._closed:
            raise BackendUnavailable("the models are being unloaded")
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    async def _start_model(self, name: str, versions: Sequence[int]) -> None:
        """Make the newest good one of ``versions`` READY."""
        for version in versions:
            if self._closed or await self._start_version(name, version):
                break

    async def _start_version(self, name: str, version: int) -> bool:
        """Make one version READY or REFUSED; True if it is READY."""
        self._set(name, version, VersionState.LOADING)
        started = time.monotonic()
        try:
            model = await self._in_thread(self._open, self._root / name / str(version))
            try:
                manifest, tokenizer = await self._examine(model)
            except BaseException:
                model.close()
                raise
        except (ServiceError, ContractError) as error:
            self._refuse(name, version, str(error))
            return False
        except Exception as error:  # noqa: BLE001  whatever a broken artifact does, the other models go on
            self._refuse(name, version, f"{type(error).__name__}: {one_line(error)}", error)
            return False
        self._models[name, version] = model
        self._set(name, version, VersionState.READY, manifest=manifest, tokenizer=tokenizer)
        seconds = round(time.monotonic() - started, 3)
        log_event("model ready", model_name=name, model_version=version, load_seconds=seconds)
        return True

    async def _examine(self, model: SavedModel) -> tuple[Manifest, bytes]:
        """What the artifact says of itself, once it has kept its word and is warm.

        Raises:
            BackendFailed, ContractError: why it must not serve.
        """
        _check_signatures(model.signatures)
        described = await self._run(model, "describe", {"unused": np.array([b""], dtype=object)})
        manifest, tokenizer = Manifest.from_json(described["manifest"].item()), described["tokenizer"].item()
        differences = await certificate.replay(manifest, tokenizer, functools.partial(self._run, model))
        if differences:
            more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
            raise BackendFailed(f"it fails its certificate: {differences[0]}{more}")
        assert manifest.certificate is not None  # else it had differed
        for batch in certificate.batches(manifest.certificate.cases):
            for rows in sorted({1, self._max_batch_rows}):
                await self._run(model, "generate_ids", _warm_up_inputs(batch[0], rows))
        return manifest, tokenizer

    def _set(self, name: str, version: int, state: VersionState, **what: Any) -> None:
        self._versions[name, version] = ModelVersion(name, version, state, **what)

    def _refuse(self, name: str, version: int, reason: str, error: Exception | None = None) -> None:
        self._set(name, version, VersionState.REFUSED, reason=reason)
        log_event(
            "model version refused",
            logging.ERROR,
            error=error,
            model_name=name,
            model_version=version,
            reason=reason,
        )


def find_models(root: Path) -> dict[str, list[int]]:
    """Versions of every model under ``root``, newest first; folders of other names than a number are ignored.

    Raises:
        BackendUnavailable: ``root`` cannot be read or holds no model.
    """
    try:
        folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
        found = {folder.name: sorted(_versions_in(folder), reverse=True) for folder in folders}
    except OSError as error:
        raise BackendUnavailable(f"the models folder {root} cannot be read: {error.strerror}") from error
    models = {name: versions for name, versions in found.items() if versions}
    if not models:
        raise BackendUnavailable(f"no model in {root}: a folder <model>/<version>/ with a saved_model.pb is expected")
    return models


def _versions_in(folder: Path) -> list[int]:
    names = [child.name for child in folder.iterdir() if child.is_dir()]
    return [int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name]


def _check_signatures(found: Mapping[str, tuple[set[str], set[str]]]) -> None:
    """The signatures that the gateway needs are there, and those that the contract knows are as it says."""
    for name in REQUIRED_SIGNATURES:
        if name not in found:
            raise BackendFailed(f"it lacks the signature {name!r}: export it with malgil-export")
    for name, spec in SIGNATURES.items():
        if name in found and found[name] != (set(spec.inputs), set(spec.outputs)):
            raise BackendFailed(f"its signature {name!r} has other inputs or outputs than this Malgil expects")


def _warm_up_inputs(case: GoldenCase, rows: int) -> dict[str, NDArray[Any]]:
    source_ids, source_lengths = pad_ids([case.source_ids] * rows)
    inputs = {"source_ids": source_ids, "source_lengths": source_lengths, **certificate.option_inputs([case] * rows)}
    inputs["max_new_tokens"] = np.full_like(inputs["max_new_tokens"], WARM_UP_TOKENS)
    inputs["min_new_tokens"] = np.zeros_like(inputs["min_new_tokens"])
    return inputs
