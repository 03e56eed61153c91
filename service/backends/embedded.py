"""Models in this process: a folder laid out as TF Serving's model base path, ``<root>/<model>/<version>/``.

The newest versions of each model that load, keep their certificate and are warm answer; a newer one that does not is
REFUSED, with its reason. The folder is looked at again and again, and what is new in it is loaded beside what answers.
TensorFlow runs each call on one thread, and as many calls at once as there are slots: on two cores that gives twice the
tokens of one call on two threads.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_export.contract import SIGNATURES, ContractError
from service.backend import Arrays, ModelVersion, VersionState
from service.backends.loading import LoadedVersion, Loader
from service.backends.model_folders import Fingerprint, Folders, ModelFolders
from service.backends.saved_model import SavedModel, one_line, tensorflow
from service.backends.signatures import check_inputs, check_outputs
from service.backends.version_plan import plan_versions
from service.certificate import MostRows
from service.errors import BackendFailed, BackendUnavailable, ModelNotFound, ServiceError
from service.telemetry import log_event

SETTLING_S: Final = 1.0
"""Longest pause until a version whose files have just changed is looked at again, and loaded if they are the same."""


@dataclass(slots=True, eq=False)
class _Serving:
    """A READY version."""

    version: ModelVersion
    model: SavedModel
    fingerprint: Fingerprint
    calls: int = 0  # that run or wait for a thread


@dataclass(frozen=True, slots=True)
class _Refusal:
    version: ModelVersion
    fingerprint: Fingerprint


@dataclass(slots=True)
class _Model:
    """Versions of one model, by number. The files of a READY one may have become bad ones: then it is in both."""

    serving: dict[int, _Serving] = field(default_factory=dict)
    refused: dict[int, _Refusal] = field(default_factory=dict)
    to_load: tuple[int, ...] = ()  # in this order; the one that is being loaded included

    def versions(self, name: str) -> list[ModelVersion]:
        """One for each number: what answers, else what is to come."""
        found = {number: refusal.version for number, refusal in self.refused.items()}
        found |= {number: ModelVersion(name, number, VersionState.LOADING) for number in self.to_load}
        found |= {number: serving.version for number, serving in self.serving.items()}
        return [found[number] for number in sorted(found, reverse=True)]


class EmbeddedBackend:
    """Runs SavedModels on this machine's cores."""

    def __init__(
        self,
        root: Path,
        *,
        slots: int,
        intra_op_threads: int,
        most_rows: MostRows,
        versions_served: int = 1,
        version_poll_s: float = 1.0,
        graph_tokenizes: bool = True,
    ) -> None:
        """Nothing is read or imported before ``start``.

        Args:
            root: folder of models.
            slots: calls that run at the same time.
            intra_op_threads: threads within one operation of a call.
            most_rows: of the batches to warm up for.
            versions_served: newest good versions of each model that answer.
            version_poll_s: time between two looks into the folder.
            graph_tokenizes: texts will come too, and not their tokens alone.
        """
        self._root = root
        self._slots = slots
        self._versions_served = versions_served
        self._version_poll_s = version_poll_s
        self._make_loader = functools.partial(
            Loader,
            intra_op_threads=intra_op_threads,
            slots=slots,
            most_rows=most_rows,
            graph_tokenizes=graph_tokenizes,
        )
        self._executor = ThreadPoolExecutor(slots, thread_name_prefix="malgil-model")
        self._free_slots = list(range(slots))
        self._loader: Loader | None = None  # until there is one, nothing is loaded
        self._model_folders = ModelFolders(root)
        self._folders: Folders = {}  # as last seen
        self._unsettled: frozenset[tuple[str, int]] = frozenset()  # versions that were something else the time before
        self._kept: Mapping[str, frozenset[int]] = {}
        self._models: dict[str, _Model] = {}
        self._loads: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._retired: set[_Serving] = set()  # not yet closed
        self._closing: set[asyncio.Future[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._versions: Sequence[ModelVersion] = ()
        self._listeners: list[Callable[[], None]] = []
        self._closed = False

    @property
    def slots(self) -> int:
        """As in ``Backend``."""
        return self._slots

    async def start(self) -> None:
        """Load, certify and warm up the newest good versions of every model, and watch the folder from then on.

        Raises:
            BackendUnavailable: the folder is missing or holds no model, or TensorFlow is not installed.
        """
        self._folders = await asyncio.to_thread(self._model_folders.look)
        if not self._folders:
            raise BackendUnavailable(
                f"no model in {self._root}: a folder <model>/<version>/ with a saved_model.pb is expected"
            )
        self._reconcile()
        await asyncio.to_thread(tensorflow)
        first = self._loader = self._make_loader(threads=self._slots)
        self._reconcile()
        while self._loads:
            await asyncio.wait(self._loads.values(), return_when=asyncio.FIRST_COMPLETED)
        self._loader = self._make_loader(threads=1)
        await asyncio.to_thread(first.close)
        if not self._closed:
            self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """As in ``Backend``."""
        self._closed = True
        if self._watching is not None and not self._watching.done():
            self._watching.cancel()
            await asyncio.wait([self._watching])
        # Sessions first: that ends their runs, which nobody waits for any more but which may have minutes to go.
        serving = [each for model in self._models.values() for each in model.serving.values()]
        await asyncio.to_thread(self._close_now, [*serving, *self._retired])
        await asyncio.gather(*self._loads.values(), *self._closing)
        await asyncio.gather(*self._closing)  # of what was loaded meanwhile
        self._models.clear()

    def versions(self) -> Sequence[ModelVersion]:
        """As in ``Backend``."""
        return self._versions

    def subscribe(self, listener: Callable[[], None]) -> None:
        """As in ``Backend``."""
        self._listeners.append(listener)

    def keep(self, versions: Mapping[str, frozenset[int]]) -> None:
        """As in ``Backend``."""
        self._kept = versions
        self._reconcile()

    async def predict(
        self, name: str, version: int, signature: str, inputs: Arrays, timeout_s: float | None = None
    ) -> dict[str, NDArray[np.generic]]:
        """As in ``Backend``."""
        model = self._models.get(name)
        serving = model.serving.get(version) if model else None
        if serving is None:
            raise ModelNotFound(f"no version {version} of a model {name!r} is ready")
        if self._closed:
            raise BackendUnavailable("the models are being unloaded")
        if signature not in SIGNATURES:
            raise BackendFailed(f"there is no signature {signature!r}")
        rows = check_inputs(signature, SIGNATURES[signature], inputs)
        if signature == "describe":
            return _described(serving.version)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        run = functools.partial(self._run, serving.model, signature, inputs, deadline)
        serving.calls += 1
        running = asyncio.get_running_loop().run_in_executor(self._executor, run)
        try:
            outputs = await asyncio.shield(running)
        except asyncio.CancelledError:
            running.add_done_callback(
                asyncio.Future.exception
            )  # how it ended is nobody's concern: asyncio would log it
            await asyncio.wait([running])  # TensorFlow does not stop: its thread, and with it a slot, is taken so long
            raise
        finally:
            serving.calls -= 1
            self._close_if_unused(serving)
        check_outputs(signature, SIGNATURES[signature], outputs, rows)
        return outputs

    def _run(
        self, model: SavedModel, signature: str, inputs: Arrays, deadline: float | None
    ) -> dict[str, NDArray[np.generic]]:
        slot = self._free_slots.pop()  # there are as many as threads that call this
        try:
            return model.run(signature, inputs, deadline, slot=slot)
        finally:
            self._free_slots.append(slot)

    async def _watch(self) -> None:
        readable = True
        while True:
            pause_s = min(self._version_poll_s, SETTLING_S) if self._unsettled else self._version_poll_s
            await asyncio.sleep(pause_s)
            try:
                folders = await asyncio.to_thread(self._model_folders.look)
            except BackendUnavailable as error:
                if readable:
                    log_event("models folder cannot be read", logging.WARNING, reason=str(error))
                readable = False
                continue
            readable = True
            self._unsettled = frozenset(
                (name, version)
                for name, versions in folders.items()
                for version, found in versions.items()
                if self._folders.get(name, {}).get(version) != found
            )
            self._folders = folders
            self._reconcile()

    def _reconcile(self) -> None:
        """Bring what is in memory nearer to what lies on disk, as far as that can be done now."""
        if self._closed:
            return
        for name in {*self._folders, *self._models}:
            self._reconcile_model(name, self._models.setdefault(name, _Model()))
        self._start_loads()
        versions = [version for name in sorted(self._models) for version in self._models[name].versions(name)]
        if versions != self._versions:
            self._versions = versions
            for listener in self._listeners:
                listener()

    def _reconcile_model(self, name: str, model: _Model) -> None:
        plan = plan_versions(
            self._folders.get(name, {}),
            {number: serving.fingerprint for number, serving in model.serving.items()},
            {number: refusal.fingerprint for number, refusal in model.refused.items()},
            served=self._versions_served,
            keep=self._kept.get(name, frozenset()),
        )
        model.to_load = plan.load
        for number in plan.forget:
            del model.refused[number]
        for number in plan.retire:
            self._retire(model.serving.pop(number))
        if not (model.serving or model.refused or model.to_load):
            del self._models[name]

    def _start_loads(self) -> None:
        for name, model in sorted(self._models.items()):
            for number in model.to_load:
                if self._loader is None or len(self._loads) >= self._loader.threads:
                    return
                # What still changes is being copied: loading half of it would be in vain.
                if (name, number) not in self._loads and (name, number) not in self._unsettled:
                    load = self._load(self._loader, name, number, self._folders[name][number])
                    self._loads[name, number] = asyncio.create_task(load)

    async def _load(self, loader: Loader, name: str, number: int, fingerprint: Fingerprint) -> None:
        """Make one version READY or REFUSED."""
        started = time.monotonic()
        try:
            loaded = await loader.load(self._root / name / str(number), fingerprint)
        except (ServiceError, ContractError) as error:
            self._refuse(name, number, fingerprint, str(error))
        except Exception as error:  # noqa: BLE001  whatever a broken artifact does, the other models go on
            self._refuse(name, number, fingerprint, f"{type(error).__name__}: {one_line(error)}", error)
        else:
            self._serve(name, number, fingerprint, loaded, round(time.monotonic() - started, 3))
        del self._loads[name, number]
        self._reconcile()

    def _serve(self, name: str, number: int, fingerprint: Fingerprint, loaded: LoadedVersion, seconds: float) -> None:
        version = ModelVersion(name, number, VersionState.READY, manifest=loaded.manifest, tokenizer=loaded.tokenizer)
        new = _Serving(version, loaded.model, fingerprint)
        model = self._models.get(name)
        if self._closed or model is None or number not in model.to_load:  # nobody wants it any more
            self._close_when_unused(new)
            return
        log_event("model ready", model_name=name, model_version=number, load_seconds=seconds)
        old = model.serving.get(number)
        model.serving[number] = new
        model.refused.pop(number, None)
        if old is not None:
            self._retire(old)

    def _refuse(
        self, name: str, number: int, fingerprint: Fingerprint, reason: str, error: Exception | None = None
    ) -> None:
        model = self._models.get(name)
        if self._closed or model is None or number not in model.to_load:
            return
        model.refused[number] = _Refusal(ModelVersion(name, number, VersionState.REFUSED, reason), fingerprint)
        log_event(
            "model version refused",
            logging.ERROR,
            error=error,
            model_name=name,
            model_version=number,
            reason=reason,
        )

    def _retire(self, serving: _Serving) -> None:
        log_event("model version retired", model_name=serving.version.name, model_version=serving.version.version)
        self._close_when_unused(serving)

    def _close_when_unused(self, serving: _Serving) -> None:
        """Close what takes no more calls, once those that it took have ended."""
        self._retired.add(serving)
        self._close_if_unused(serving)

    def _close_if_unused(self, serving: _Serving) -> None:
        if serving in self._retired and not serving.calls:
            self._retired.discard(serving)
            closing = asyncio.get_running_loop().run_in_executor(None, serving.model.close)
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _close_now(self, serving: Sequence[_Serving]) -> None:
        for each in serving:
            each.model.close()
        if self._loader is not None:
            self._loader.close()
        self._executor.shutdown()


def _described(version: ModelVersion) -> dict[str, NDArray[Any]]:
    """What the version said of itself when it was certified. Its graph reads the files, which may be others by now."""
    assert version.manifest is not None, "READY"
    manifest, tokenizer = np.empty(1, object), np.empty(1, object)
    manifest[0], tokenizer[0] = version.manifest.to_json().encode(), version.tokenizer
    return {"manifest": manifest, "tokenizer": tokenizer}
