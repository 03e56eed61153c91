"""Profiling: which calls are timed, in what time, and how that comes into the manifest."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_export import contract, profiling
from model_export.artifact.machine import MachineError
from model_export.contract import (
    ASSETS_FOLDER,
    MANIFEST_ASSET,
    Certificate,
    CpuFeatures,
    GoldenCase,
    Limits,
    Manifest,
    Profile,
    ProfiledCall,
    cpu_name,
)
from model_export.profiling import (
    MOST_POSITIONS,
    ROUNDS,
    STAGES,
    ProfilingError,
    add_profile,
    call_inputs,
    grid,
    profile,
)
from service.backends.scripted import scripted_manifest

MANIFEST = f"{ASSETS_FOLDER}/{MANIFEST_ASSET}"
LIMITS = Limits(max_source_tokens=256, max_target_tokens=256, max_beam_size=8, default_max_new_tokens=128)

GOLDEN = GoldenCase("", "", (5, 6, 3), {}, (), (), (), (), ())
MANIFEST_OF_ONE = replace(scripted_manifest("echo"), certificate=Certificate(0.0, 0.0, (GOLDEN,)))


def positions(call: ProfiledCall) -> int:
    return call.rows * call.beam_size * (call.source_tokens + call.new_tokens)


# --- which calls ------------------------------------------------------------------------------------------------------


def test_the_grid_has_every_size_length_and_beam_up_to_a_bound_from_the_least_on() -> None:
    calls = grid(LIMITS)
    assert {(call.rows, call.beam_size) for call in calls if call.source_tokens == 8} == {
        (rows, beam_size) for rows in (1, 4, 8, 16, 32, 64) for beam_size in (1, 4)
    }
    assert {(call.source_tokens, call.new_tokens) for call in calls} == {(8, 8), (32, 32), (128, 32), (128, 128)}
    assert [positions(call) for call in calls] == sorted(positions(call) for call in calls)
    assert positions(calls[-1]) <= MOST_POSITIONS
    assert len(calls) == len(set(calls)) == 44


def test_the_grid_stays_within_the_models_limits() -> None:
    calls = grid(Limits(max_source_tokens=48, max_target_tokens=6, max_beam_size=2, default_max_new_tokens=6))
    assert {(call.source_tokens, call.new_tokens) for call in calls} == {(8, 6), (32, 6), (48, 6)}
    assert {call.beam_size for call in calls} == {1, 2}
    assert {call.beam_size for call in grid(replace(LIMITS, max_beam_size=1))} == {1}


# --- in what time -----------------------------------------------------------------------------------------------------


class SlowMachine:
    """A clock that only calls move: each takes a millisecond and as many microseconds as it has positions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[ProfiledCall] = []
        self.told: list[tuple[str, int, int]] = []
        monkeypatch.setattr(profiling.time, "perf_counter", lambda: self.now)

    def __call__(self, call: ProfiledCall) -> float:
        self.calls.append(call)
        seconds = 1e-3 + 1e-6 * positions(call)
        self.now += seconds
        return seconds

    def timed(self, seconds: float) -> dict[ProfiledCall, list[float]]:
        timed = profiling._time_calls(self, grid(LIMITS), seconds, lambda *told: self.told.append(told))
        return {each.call: each.seconds for each in timed}


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.6])
def test_the_largest_calls_are_left_out_where_time_is_short(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SlowMachine(monkeypatch)
    found = machine.timed(seconds)
    assert list(found) == grid(LIMITS)[: len(found)], "the least ones"
    assert 1 < len(found) < len(grid(LIMITS))
    assert {len(each) for each in found.values()} == {ROUNDS[0]}
    assert 0.5 * seconds < machine.now <= 1.1 * seconds


def test_two_sizes_of_a_batch_are_timed_of_every_beam_however_short_the_time_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = list(SlowMachine(monkeypatch).timed(1e-6))
    assert found == grid(LIMITS)[: len(found)]
    assert {(call.beam_size, call.rows) for call in found} >= {(1, 1), (1, 4), (4, 1), (4, 4)}
    assert (found[-1].beam_size, found[-1].rows) == (4, 4), "and no more"


def test_all_are_timed_in_turns_and_the_oftener_the_more_time_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SlowMachine(monkeypatch)
    found = machine.timed(60.0)
    assert list(found) == grid(LIMITS)
    assert {len(each) for each in found.values()} == {ROUNDS[1]}
    counted = machine.calls[-ROUNDS[1] * len(found) :]
    assert counted == grid(LIMITS) * ROUNDS[1]
    assert all(seconds == 1e-3 + 1e-6 * positions(call) for call, each in found.items() for seconds in each)
    stages = [stage for stage, _, _ in machine.told]
    assert sorted(set(stages), key=stages.index) == list(STAGES[1:])
    assert all(0 <= done < total for _, done, total in machine.told)


# --- of an artifact ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profiled(artifact_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, Profile]:
    """A profiled copy of a model with its manifest before, and what ``profile`` returned."""
    artifact = shutil.copytree(artifact_root / "tiny-transformer" / "1", tmp_path_factory.mktemp("m") / "1")
    (artifact / MANIFEST).chmod(0o640)
    before = Manifest.from_json((artifact / MANIFEST).read_bytes())
    return artifact, before, profile(artifact, seconds=1.0)


def test_the_profile_is_added_to_the_manifest_and_nothing_else_changes(
    profiled: tuple[Path, Manifest, Profile], artifact_root: Path
) -> None:
    artifact, before, measured = profiled
    assert before.profile is None
    assert Manifest.from_json((artifact / MANIFEST).read_bytes()) == replace(before, profile=measured)
    assert (artifact / MANIFEST).stat().st_mode & 0o777 == 0o640
    original = artifact_root / "tiny-transformer" / "1"
    assert [path.relative_to(artifact) for path in sorted(artifact.rglob("*"))] == [
        path.relative_to(original) for path in sorted(original.rglob("*"))
    ]


def test_a_profile_says_where_and_what(profiled: tuple[Path, Manifest, Profile]) -> None:
    _, before, measured = profiled
    assert (measured.cpu, measured.intra_op_threads) == (cpu_name(), 1)
    timed = [replace(call, seconds=0.0) for call in measured.calls]
    assert set(timed) <= set(grid(before.limits))
    assert {(call.beam_size, call.rows) for call in timed} >= {(1, 1), (1, 4), (4, 1), (4, 4)}
    assert min(call.seconds for call in measured.calls) > 0.0


def test_a_model_that_cannot_be_held_to_a_length_is_not_profiled() -> None:
    def signature(inputs: object) -> dict[str, object]:
        return {"lengths": np.array([[7]])}

    timer = profiling._Timer(signature, MANIFEST_OF_ONE)
    with pytest.raises(ProfilingError, match="answers with 7 tokens where 8 are asked for"):
        timer(ProfiledCall(1, 8, 8, 1, 0.0))


def test_sources_are_golden_tokens_of_the_length_asked_for_in_their_frame() -> None:
    cases = tuple(replace(GOLDEN, source_ids=ids) for ids in ((5, 6, 3), (7, 3)))
    manifest = replace(MANIFEST_OF_ONE, certificate=Certificate(0.0, 0.0, cases))
    inputs = call_inputs(ProfiledCall(3, 5, 6, 4, 0.0), manifest)
    assert inputs["source_ids"].tolist() == [[5, 6, 7, 5, 3], [7, 5, 6, 7, 3], [6, 7, 5, 6, 3]]
    assert inputs["source_lengths"].tolist() == [5, 5, 5]
    for option in ("min_new_tokens", "max_new_tokens"):
        assert inputs[option].tolist() == [6, 6, 6]
    assert inputs["beam_size"].tolist() == [4, 4, 4]


# --- what cannot be profiled ------------------------------------------------------------------------------------------


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfilingError, match=r"is no exported model: assets/manifest.json is missing"):
        profile(tmp_path)
    (tmp_path / ASSETS_FOLDER).mkdir()
    (tmp_path / MANIFEST).write_text("{}", encoding="utf-8")
    with pytest.raises(ProfilingError, match="format version None"):
        profile(tmp_path)


def manifest_in(folder: Path, **changed: object) -> Path:
    (folder / ASSETS_FOLDER).mkdir()
    (folder / MANIFEST).write_text(replace(MANIFEST_OF_ONE, **changed).to_json(), encoding="utf-8")
    return folder


def test_without_golden_cases_there_is_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ProfilingError, match="has no golden cases"):
        profile(manifest_in(tmp_path, certificate=None))


def test_what_this_machine_has_no_kernel_for_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "cpu_flags", lambda: frozenset({"sse2"}))
    with pytest.raises(MachineError, match="lacks avx512_vnni"):
        profile(manifest_in(tmp_path, dtype="int8", cpu_features=CpuFeatures(required=("avx512_vnni",))))


def test_where_it_cannot_be_written_nothing_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the superuser may write anywhere
    with pytest.raises(ProfilingError, match="cannot be written"):
        profile(manifest_in(tmp_path))


def test_a_manifest_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = manifest_in(tmp_path)
    before = (artifact / MANIFEST).read_bytes()

    def broken(descriptor: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="the disk is full"):
        add_profile(artifact, Profile("a CPU", 1, "2.21.0", ()))
    assert [path.name for path in (artifact / ASSETS_FOLDER).iterdir()] == [MANIFEST_ASSET]
    assert (artifact / MANIFEST).read_bytes() == before
