"""Loading a version, from its folder to where it may answer: opened, certified and warm.

It takes threads of its own, apart from those that run requests and from TensorFlow's. Nearly all of the time goes into
the compilation of the graph for each signature and shape, which TensorFlow does on the thread that asks, without the
GIL.

These threads keep their priority. Measured once each with the English-French model under full load, on two cores that
others used too: at niceness 0 the load took 45 s, the 99th percentile of requests rose from 156 to 199 ms and the
slowest from 232 to 244 ms; at niceness 5 110 s, 128 to 263 ms and 228 to 1029 ms; at niceness 10 it had not ended after
three minutes. A thread that waits for the processor may hold the GIL meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_export.contract import SIGNATURES, Manifest
from service import certificate
from service.backend import Arrays
from service.backends.cpu import check_machine
from service.backends.model_folders import Fingerprint, fingerprint
from service.backends.saved_model import SavedModel
from service.backends.signatures import check_inputs, check_outputs
from service.certificate import MostRows
from service.errors import BackendFailed, BackendUnavailable

REQUIRED_SIGNATURES: Final = ("generate_ids", "describe")
"""What the gateway cannot do without."""
OF_TEXTS: Final = ("generate", "score", "detokenize")
"""What it calls only where the graph tokenizes."""


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version that may answer."""

    model: SavedModel
    manifest: Manifest
    tokenizer: bytes


class Loader:
    """Loads as many versions at the same time as it has threads."""

    def __init__(
        self,
        *,
        threads: int,
        intra_op_threads: int,
        slots: int,
        most_rows: MostRows,
        graph_tokenizes: bool = True,
    ) -> None:
        """
        Args:
            threads: versions at the same time, and runs of theirs.
            intra_op_threads: as of ``SavedModel``.
            slots: as of ``SavedModel``.
            most_rows: of the batches to warm up for.
            graph_tokenizes: texts will come too, and not their tokens alone.
        """
        self.threads = threads
        self._open = functools.partial(SavedModel, intra_op_threads=intra_op_threads, slots=slots)
        self._most_rows = most_rows
        self._uncalled: Collection[str] = () if graph_tokenizes else OF_TEXTS
        self._loads = ThreadPoolExecutor(threads, thread_name_prefix="malgil-load")
        self._runs = ThreadPoolExecutor(threads, thread_name_prefix="malgil-load-run")
        self._loading: set[SavedModel] = set()
        self._closed = False

    async def load(self, folder: Path, expected: Fingerprint) -> LoadedVersion:
        """The version in ``folder``, whose files are as ``expected``.

        Raises:
            BackendFailed, ContractError: why it must not answer.
            BackendUnavailable: the loader was closed.
        """
        return await asyncio.get_running_loop().run_in_executor(self._loads, self._load, folder, expected)

    def close(self) -> None:
        """End what loads, and wait until it has ended."""
        self._closed = True
        for model in list(self._loading):
            model.close()
        self._loads.shutdown()
        self._runs.shutdown()

    def _load(self, folder: Path, expected: Fingerprint) -> LoadedVersion:
        check_machine(folder)
        model = self._open(folder)
        self._loading.add(model)
        try:
            _check_signatures(model.signatures)
            # A loop of its own: tokenizers are made and answers compared here, and not where requests wait for it.
            run = functools.partial(self._run, model)
            examination = certificate.examine(run, self._most_rows, self._uncalled)
            manifest, tokenizer = asyncio.run(examination)
            if fingerprint(folder) != expected:
                raise BackendFailed("its files changed while it was loaded")
        except BaseException:
            model.close()
            raise
        finally:
            self._loading.discard(model)
        return LoadedVersion(model, manifest, tokenizer)

    async def _run(self, model: SavedModel, signature: str, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        if self._closed:
            raise BackendUnavailable("the models are being unloaded")
        spec = SIGNATURES[signature]
        rows = check_inputs(signature, spec, inputs)
        run = functools.partial(model.run, signature, inputs, slot=None)
        outputs: dict[str, NDArray[Any]] = await asyncio.get_running_loop().run_in_executor(self._runs, run)
        check_outputs(signature, spec, outputs, rows)
        return outputs


def _check_signatures(found: Mapping[str, tuple[set[str], set[str]]]) -> None:
    """The signatures that the gateway needs are there, and those that the contract knows are as it says."""
    for name in REQUIRED_SIGNATURES:
        if name not in found:
            raise BackendFailed(f"it lacks the signature {name!r}: export it with malgil-export")
    for name, spec in SIGNATURES.items():
        if name in found and found[name] != (set(spec.inputs), set(spec.outputs)):
            raise BackendFailed(f"its signature {name!r} has other inputs or outputs than this Malgil expects")
