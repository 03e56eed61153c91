"""A fake backend that ships beside the real ones: no network of weights, the answer follows a script.

It keeps every promise of ``Backend``: it has a manifest and a working tokenizer, takes and checks the tensors of
its signatures, honours their options, and runs so many calls at a time as it has slots. It echoes the source
(``scripted_model`` says how), so that tests of clients, transports and batching know what to expect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from numpy.typing import NDArray

from model_export.contract import SIGNATURES, Limits, Manifest
from service.backend import Arrays, ModelVersion, VersionState
from service.backends.scripted_artifact import LIMITS, SPECIAL_IDS, scripted_manifest, tiny_tokenizer
from service.backends.scripted_model import SIGNATURE_RUNS, Run
from service.backends.signatures import check_inputs
from service.errors import BackendFailed, DeadlineExceeded, ModelNotFound, ServiceError

__all__ = ["LIMITS", "SPECIAL_IDS", "ScriptedBackend", "scripted_manifest", "tiny_tokenizer"]

Interrupt = Callable[[Arrays], ServiceError | None]
AT_ONCE: Final = frozenset({"tokenize", "detokenize", "describe"})
"""Signatures that take no slot."""


class ScriptedBackend:
    """A ``Backend`` whose models echo."""

    def __init__(
        self,
        models: Mapping[str, Sequence[int]] | None = None,
        *,
        slots: int = 2,
        delay_s: float = 0.0,
        limits: Limits = LIMITS,
        interrupt: Interrupt = lambda inputs: None,
    ) -> None:
        """
        Args:
            models: versions of each model name; by default version 1 of ``echo``.
            slots: runs at the same time.
            delay_s: how long every run takes that generates or scores.
            limits: of every model.
            interrupt: sees the inputs of every such run; an error that it returns is raised.
        """
        self._slots = slots
        self._delay_s = delay_s
        self._interrupt = interrupt
        self._running = asyncio.Semaphore(slots)
        self._versions: tuple[ModelVersion, ...] = ()
        self._listeners: list[Callable[[], None]] = []
        self._found = tuple(
            ModelVersion(name, version, VersionState.READY, None, scripted_manifest(name, limits), tiny_tokenizer())
            for name, versions in sorted((models or {"echo": (1,)}).items())
            for version in sorted(versions, reverse=True)
        )

    @property
    def slots(self) -> int:
        """As in ``Backend``."""
        return self._slots

    async def start(self) -> None:
        """As in ``Backend``."""
        self.set_versions(self._found)

    async def close(self) -> None:
        """As in ``Backend``."""
        for _ in range(self._slots):
            await self._running.acquire()
        self._versions = ()

    def versions(self) -> Sequence[ModelVersion]:
        """As in ``Backend``."""
        return self._versions

    def subscribe(self, listener: Callable[[], None]) -> None:
        """As in ``Backend``."""
        self._listeners.append(listener)

    def keep(self, versions: Mapping[str, frozenset[int]]) -> None:
        """As in ``Backend``: every version is there from the start."""

    def set_versions(self, versions: Sequence[ModelVersion]) -> None:
        """Let these be what there is from now on: a version appears, is refused, or goes."""
        self._versions = tuple(sorted(versions, key=lambda each: (each.name, -each.version)))
        for listener in self._listeners:
            listener()

    async def predict(
        self, name: str, version: int, signature: str, inputs: Arrays, timeout_s: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """As in ``Backend``, for the signatures of ``scripted_manifest``."""
        wanted = (name, version, VersionState.READY)
        found = [each for each in self._versions if (each.name, each.version, each.state) == wanted]
        if not found:
            raise ModelNotFound(f"there is no version {version} of model {name!r}")
        manifest = found[0].manifest
        assert manifest is not None, "a scripted version is READY"
        if signature not in manifest.signatures:
            raise BackendFailed(f"version {version} of model {name!r} has no signature {signature!r}")
        check_inputs(signature, SIGNATURES[signature], inputs)
        run = SIGNATURE_RUNS[signature]
        if signature in AT_ONCE:
            return run(inputs, manifest)
        try:
            return await asyncio.wait_for(self._run(run, inputs, manifest), timeout_s)
        except asyncio.TimeoutError:
            raise DeadlineExceeded(f"no answer within {timeout_s} s") from None

    async def _run(self, run: Run, inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
        async with self._running:
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            error = self._interrupt(inputs)
            if error is not None:
                raise error
            return run(inputs, manifest)
