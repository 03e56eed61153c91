"""Profiling: what calls of an artifact take on this machine, written into its manifest.

Times are of the processor, of one call at a time on one thread, as the embedded backend runs each: other work on the
machine makes them hardly longer. They go into the file that ``describe`` reads, so that every server of the artifact
knows what to expect before its first call.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import tensorflow as tf
from numpy.typing import NDArray

from model_export.artifact.calls import Row, Signature, generate_ids_inputs
from model_export.artifact.machine import check_machine
from model_export.artifact.reloaded import in_session
from model_export.config import UserError
from model_export.contract import (
    ASSETS_FOLDER,
    MANIFEST_ASSET,
    ContractError,
    Limits,
    Manifest,
    Profile,
    ProfiledCall,
    cpu_name,
)
from model_export.text.progress import OnProgress, silent

STAGES: Final = ("loading the model", "first calls", "timing calls")
"""What ``profile`` tells its ``on_progress``, in this order."""
THREADS: Final = 1
SECONDS: Final = 60.0
ROWS: Final = (1, 4, 8, 16, 32, 64)
LENGTHS: Final = ((8, 8), (32, 32), (128, 32), (128, 128))
"""Source and new tokens. Not always as many: what reading costs and what decoding does could not be told apart."""
BEAM_SIZES: Final = (1, 4)
MOST_POSITIONS: Final = 16_384
"""Rows x beam size x (source + new tokens): calls that are larger take seconds, for which nobody should wait."""
ROUNDS: Final = 3, 9
"""Each call is timed at least and at most so often, once a round; its first call is not counted."""


class ProfilingError(UserError):
    """There is nothing that can be profiled, or no time for it."""


@dataclass(slots=True)
class _Timed:
    """One call, and the seconds that it took."""

    call: ProfiledCall
    seconds: list[float] = field(default_factory=list)


def profile(artifact: Path, seconds: float = SECONDS, on_progress: OnProgress = silent) -> Profile:
    """Time ``generate_ids`` of an artifact over batch sizes, lengths and beam sizes, and add that to its manifest.

    Args:
        artifact: ``<root>/<model>/<version>/``.
        seconds: for the calls, more or less; the largest are left out where it is not enough for all of them, but of
            every beam size two sizes of a batch are timed.
        on_progress: called in each of ``STAGES``.

    Raises:
        MachineError: this machine cannot run it.
        ProfilingError: it is no artifact, or one without golden cases, or it cannot be written to.
    """
    assets = artifact / ASSETS_FOLDER
    manifest = _read(assets / MANIFEST_ASSET)
    if not os.access(assets, os.W_OK):
        raise ProfilingError(f"{assets} cannot be written: the profile would have no place")
    if manifest.certificate is None or not manifest.certificate.cases:
        raise ProfilingError(f"{artifact} has no golden cases, whose texts would be read: export it anew")
    check_machine(manifest.dtype, manifest.cpu_features)
    on_progress(STAGES[0], 0, 0)
    with in_session(artifact, THREADS) as signatures:
        timer = _Timer(signatures["generate_ids"], manifest)
        timed = _time_calls(timer, grid(manifest.limits), seconds, on_progress)
    calls = [replace(each.call, seconds=round(statistics.median(each.seconds), 6)) for each in timed]
    calls.sort(key=lambda call: (call.beam_size, call.source_tokens, call.new_tokens, call.rows))
    measured = Profile(cpu_name(), THREADS, tf.__version__, tuple(calls))
    add_profile(artifact, measured)
    return measured


def grid(limits: Limits) -> list[ProfiledCall]:
    """The calls to be timed, within the model's limits, from the least work to the most."""
    lengths = {(min(source, limits.max_source_tokens), min(new, limits.max_target_tokens)) for source, new in LENGTHS}
    beam_sizes = {min(beam_size, limits.max_beam_size) for beam_size in BEAM_SIZES}
    calls = [
        ProfiledCall(rows, source, new, beam_size, 0.0)
        for rows, (source, new), beam_size in itertools.product(ROWS, lengths, beam_sizes)
    ]
    within = [call for call in calls if rows_positions(call) <= MOST_POSITIONS]
    return sorted(within, key=lambda call: (rows_positions(call), call.new_tokens, call.beam_size))


def rows_positions(call: ProfiledCall) -> int:
    """Padded positions of a call."""
    return call.rows * call.beam_size * (call.source_tokens + call.new_tokens)


# --- timing -----------------------------------------------------------------------------------------------------------


class _Timer:
    """Runs calls of any shape on real tokens, and tells the seconds of processor that each took."""

    def __init__(self, signature: Signature, manifest: Manifest) -> None:
        self._signature = signature
        self._manifest = manifest

    def __call__(self, call: ProfiledCall) -> float:
        inputs = call_inputs(call, self._manifest)
        started = time.process_time()
        outputs = self._signature(inputs)
        seconds = time.process_time() - started
        lengths = outputs["lengths"][:, 0].tolist()
        if lengths != [call.new_tokens] * call.rows:
            raise ProfilingError(f"the model answers with {max(lengths)} tokens where {call.new_tokens} are asked for")
        return seconds


def call_inputs(call: ProfiledCall, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Inputs of ``generate_ids`` that make it such a call: golden tokens over and over, each row from another one on.

    ``manifest`` has a certificate.
    """
    assert manifest.certificate is not None
    before, behind = manifest.framing.source_prefix, manifest.framing.source_suffix
    end = -len(behind) or None
    golden = [token for case in manifest.certificate.cases for token in case.source_ids[len(before) : end]]
    options = {"beam_size": call.beam_size, "max_new_tokens": call.new_tokens, "min_new_tokens": call.new_tokens}
    size = max(0, call.source_tokens - len(before) - len(behind))
    bodies = [
        itertools.islice(itertools.cycle(golden), first, first + size)
        for first in range(0, call.rows * call.source_tokens, call.source_tokens)
    ]
    return generate_ids_inputs([Row("", (*before, *body, *behind), options) for body in bodies])


def _time_calls(
    timer: Callable[[ProfiledCall], float], calls: Sequence[ProfiledCall], seconds: float, on_progress: OnProgress
) -> list[_Timed]:
    """As many of the calls, from the least on, as there is time for, in turns."""
    for beam_size in {call.beam_size for call in calls}:  # greedy search and beams have graphs of their own to compile
        timer(next(call for call in calls if call.beam_size == beam_size))
    started = time.perf_counter()
    timed = _first_calls(timer, calls, started + seconds / (1 + ROUNDS[0]), on_progress)
    round_s = (time.perf_counter() - started) / len(timed)
    for turn in range(ROUNDS[1]):
        if turn >= ROUNDS[0] and time.perf_counter() - started + round_s > seconds:
            break
        round_started = time.perf_counter()
        for place, each in enumerate(timed):
            on_progress(STAGES[2], turn * len(timed) + place, max(turn + 1, ROUNDS[0]) * len(timed))
            each.seconds.append(timer(each.call))
        round_s = time.perf_counter() - round_started
    return timed


def _first_calls(
    timer: Callable[[ProfiledCall], float], calls: Sequence[ProfiledCall], until: float, on_progress: OnProgress
) -> list[_Timed]:
    """Run each once, until the next would take too long: a round of those that were run fits into the time."""
    timed: list[_Timed] = []
    least = _least(calls)
    expected_s = 0.0
    for place, call in enumerate(calls):
        on_progress(STAGES[1], place, len(calls))
        if timed:
            expected_s *= rows_positions(call) / rows_positions(timed[-1].call)
        before = time.perf_counter()
        if place >= least and before + expected_s > until:
            break
        timer(call)
        expected_s = time.perf_counter() - before
        timed.append(_Timed(call))
    return timed


def _least(calls: Sequence[ProfiledCall]) -> int:
    """How many of the first of them have two sizes of a batch for every beam size."""
    missing = {(call.beam_size, call.rows) for call in calls if call.rows in ROWS[:2]}
    for place, call in enumerate(calls):
        if not missing:
            return place
        missing.discard((call.beam_size, call.rows))
    return len(calls)


# --- the manifest -----------------------------------------------------------------------------------------------------


def _read(file: Path) -> Manifest:
    try:
        return Manifest.from_json(file.read_bytes())
    except FileNotFoundError:
        raise ProfilingError(
            f"{file.parent.parent} is no exported model: {ASSETS_FOLDER}/{file.name} is missing"
        ) from None
    except ContractError as error:
        raise ProfilingError(f"{file.parent.parent}: {error}") from error


def add_profile(artifact: Path, measured: Profile) -> None:
    """Replace the manifest at once and durably: who reads it finds it as it was, or whole with the profile."""
    file = artifact / ASSETS_FOLDER / MANIFEST_ASSET
    manifest = replace(_read(file), profile=measured)
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(manifest.to_json())
            stream.flush()
            os.fchmod(descriptor, file.stat().st_mode & 0o777)
            os.fsync(descriptor)
        os.replace(name, file)
    except BaseException:
        Path(name).unlink()
        raise
