"""The Backend protocol: something that holds models and runs a signature of one on named arrays.

It is the shape of TF Serving's Predict, so that everything above (certificate, batching, engine) is the same for every
backend.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model_export.contract import Manifest

Arrays = Mapping[str, NDArray[Any]]
"""Named tensors; texts are object arrays of ``bytes``."""


def pad_ids(sequences: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Ids int32 ``[B, longest]`` (at least one position, 0 behind a row's end) and lengths int32 ``[B]``."""
    lengths = [len(sequence) for sequence in sequences]
    zeros = [0] * max(1, *lengths)
    padded = [[*sequence, *zeros[length:]] for sequence, length in zip(sequences, lengths, strict=True)]
    return np.array(padded, dtype=np.int32), np.array(lengths, dtype=np.int32)


def id_inputs(name: str, sequences: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int32]]:
    """``pad_ids`` as the inputs ``<name>_ids`` and ``<name>_lengths`` of a signature."""
    ids, lengths = pad_ids(sequences)
    return {f"{name}_ids": ids, f"{name}_lengths": lengths}


class VersionState(enum.Enum):
    """Where one version of a model is on its way; only READY ones answer."""

    LOADING = "loading"
    READY = "ready"
    REFUSED = "refused"  # could not be loaded, or failed its certificate: ``reason`` says which and why


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of one model as a backend sees it now."""

    name: str
    version: int
    state: VersionState
    reason: str | None = None
    manifest: Manifest | None = None  # always there when READY
    tokenizer: bytes | None = None  # always there when READY
    replicas: Mapping[str, str] | None = None  # of a backend with several: what each says of it, by address


class Backend(Protocol):
    """Runs models. Methods raise only errors of ``service.errors``."""

    @property
    def slots(self) -> int:
        """How many ``predict`` calls run at the same time without waiting for each other; at least 1; it may change."""
        ...

    async def start(self) -> None:
        """Begin to load; returns once every model found has become READY or REFUSED.

        A backend whose models live elsewhere returns after some seconds even if they are not there: they are found
        when they come.
        """
        ...

    async def close(self) -> None:
        """End running calls soon, those of models with BackendUnavailable, and free everything."""
        ...

    def versions(self) -> Sequence[ModelVersion]:
        """What there is now, by name, newest version first. Cheap: a snapshot."""
        ...

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called, in the event loop, whenever ``versions`` or ``slots`` have changed."""
        ...

    def keep(self, versions: Mapping[str, frozenset[int]]) -> None:
        """Load these versions of each model too, besides those that are served anyway, and keep them: labels name them.

        Replaces what was asked before; may come before ``start``. A backend that does not choose what is loaded does
        nothing.
        """
        ...

    async def predict(
        self, name: str, version: int, signature: str, inputs: Arrays, timeout_s: float | None = None
    ) -> dict[str, NDArray[np.generic]]:
        """Run one signature; inputs and outputs as in ``contract.SIGNATURES``.

        Raises:
            ModelNotFound: no such READY version, or no longer.
            Overloaded: it takes no more calls now.
            DeadlineExceeded: no answer within ``timeout_s`` seconds.
            BackendFailed: the graph failed. BackendUnavailable: it cannot be reached.
        """
        ...
