from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest

from model_export.contract import Manifest, Profile, ProfiledCall, cpu_name
from service.backend import ModelVersion, VersionState
from service.backends.scripted import scripted_manifest
from service.batching.costs import BatchShape, Costs, RowCost
from service.batching.profiles import GAIN, Machine, Profiles, expectations, machine_of, most_rows
from service.batching.regression import TRUSTED_AFTER
from service.settings import MAX_BATCH_ROWS, MAX_BATCH_TOKENS, Settings
from tests.support.rows import make_row, make_scoring_row

ROWS = (1, 4, 16, 64)
LENGTHS = ((8, 8), (32, 32), (128, 32))
SECONDS = (0.01, 0.002, 1e-4, 5e-5, 5e-7)
HERE = Machine("this CPU", 1)


def seconds_of(rows: int, source: int, new: int, beam_size: int = 1, factors: tuple[float, ...] = SECONDS) -> float:
    """By hand: the call, its steps, tokens, reads, and positions attended."""
    tokens = rows * new * beam_size
    x = (1.0, new, tokens, rows * source, tokens * (source + new / 2))
    return sum(value * factor for value, factor in zip(x, factors, strict=True))


def profile_of(beam_sizes: tuple[int, ...] = (1, 4), *, scale: float = 1.0, cpu: str = HERE.cpu) -> Profile:
    calls = [
        ProfiledCall(rows, source, new, beam_size, scale * seconds_of(rows, source, new, beam_size))
        for beam_size in beam_sizes
        for source, new in LENGTHS
        for rows in ROWS
    ]
    return Profile(cpu, 1, "2.21.0", tuple(calls))


def version_of(profile: Profile | None, number: int = 1, name: str = "echo") -> ModelVersion:
    manifest: Manifest = replace(scripted_manifest(name), profile=profile)
    return ModelVersion(name, number, VersionState.READY, None, manifest, b"")


def shape_of(rows: int, source: int, new: int, beam_size: int = 1) -> BatchShape:
    shape = BatchShape()
    for _ in range(rows):
        shape = shape.with_row(RowCost(source, float(new), beam_size))
    return shape


def costs_of(*versions: ModelVersion, machine: Machine | None = HERE, **bounds: int) -> Costs:
    costs = Costs(**bounds)
    costs.expect(Profiles(machine).read(versions))
    return costs


def test_a_profile_predicts_calls_that_it_did_not_measure_and_is_trusted_at_once() -> None:
    costs = costs_of(version_of(profile_of()))
    for beam_size in (1, 4):
        group = make_row(beam_size=beam_size).group
        assert costs.trusted(group)
        for rows, source, new in ((2, 20, 20), (32, 60, 10), (48, 128, 64)):
            predicted = costs.batch_seconds(group, shape_of(rows, source, new, beam_size))
            assert predicted == pytest.approx(seconds_of(rows, source, new, beam_size), rel=0.02)
    texts = make_row(text="by text").group
    assert costs.batch_seconds(texts, shape_of(2, 20, 20)) == pytest.approx(seconds_of(2, 20, 20), rel=0.02)


def test_nothing_is_known_of_scoring_or_of_versions_without_a_profile() -> None:
    costs = costs_of(version_of(profile_of()), version_of(None, 2))
    for group in (make_scoring_row().group, replace(make_row(), version=2).group):
        assert not costs.trusted(group)
        assert costs.bounds(group) == (MAX_BATCH_ROWS, MAX_BATCH_TOKENS)
        assert costs.batch_seconds(group, shape_of(8, 8, 8)) < 0.01


def test_what_runs_here_is_learnt_all_the_same() -> None:
    costs, group = costs_of(version_of(profile_of())), make_row().group
    for _ in range(100):
        costs.learn(group, [RowCost(20, 20.0, 1)] * 8, shape_of(8, 20, 20), 2.0 * seconds_of(8, 20, 20), False)
    assert costs.batch_seconds(group, shape_of(8, 20, 20)) == pytest.approx(2.0 * seconds_of(8, 20, 20), rel=0.1)


@pytest.mark.parametrize("machine", [HERE._replace(cpu="another"), HERE._replace(intra_op_threads=2)])
def test_a_profile_of_another_machine_predicts_refuses_nobody_and_is_told_of(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    version, group = version_of(profile_of()), make_row().group
    with caplog.at_level(logging.INFO, "malgil"):
        costs = costs_of(version, machine=machine)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.fields["measured_on"] == HERE.cpu
    assert costs.batch_seconds(group, shape_of(8, 20, 20)) == pytest.approx(seconds_of(8, 20, 20), rel=0.02)
    assert costs.bounds(group) == costs_of(version).bounds(group)
    for known in range(TRUSTED_AFTER):
        assert not costs.trusted(group), known
        costs.learn(group, [RowCost(20, 20.0, 1)] * 8, shape_of(8, 20, 20), 3.0 * seconds_of(8, 20, 20), False)
    assert costs.trusted(group)
    assert costs.batch_seconds(group, shape_of(8, 20, 20)) == pytest.approx(3.0 * seconds_of(8, 20, 20), rel=0.3)


def test_in_the_log_of_a_profile_is_what_follows_from_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "malgil"):
        costs = costs_of(version_of(profile_of((1, 4))))
    (record,) = caplog.records
    assert record.getMessage() == "profile read"
    assert record.fields["median_error"] < 0.01
    bounds = {beam_size: costs.bounds(make_row(beam_size=beam_size).group) for beam_size in (1, 4)}
    assert record.fields["max_batch_rows"] == {beam_size: each.rows for beam_size, each in bounds.items()}
    assert record.fields["max_batch_tokens"] == {beam_size: each.tokens for beam_size, each in bounds.items()}


def test_batches_grow_as_long_as_a_doubling_is_worth_its_time() -> None:
    rows, tokens = expectations(profile_of((1,)), 1, 16.0)[1].bounds
    best = {}
    for source, new in LENGTHS:
        rate = {b: b / seconds_of(b, source, new) for b in range(1, 2 * max(ROWS) + 1)}
        best[source, new] = next(b for b in range(1, max(ROWS) + 1) if b == 64 or rate[2 * b] < (1 + GAIN) * rate[b])
    assert rows == pytest.approx(max(best.values()), abs=1)
    assert tokens == pytest.approx(max(b * sum(lengths) for lengths, b in best.items()), rel=0.05)
    assert min(best.values()) < 32 < max(best.values()), "neither bound says all"


def test_beams_that_were_not_measured_are_like_the_nearest() -> None:
    found = expectations(profile_of((1, 4)), 8, 16.0)
    assert list(found) == list(range(1, 9))
    assert found[2].seconds is found[4].seconds is found[8].seconds is not found[1].seconds
    assert found[8].bounds.rows < found[4].bounds.rows < found[2].bounds.rows <= max(ROWS)
    assert expectations(profile_of((1,)), 2, 16.0).keys() == {1, 2}


def test_settings_have_the_last_word_on_bounds() -> None:
    version, group = version_of(profile_of()), make_row().group
    free = costs_of(version).bounds(group)
    assert free != (MAX_BATCH_ROWS, MAX_BATCH_TOKENS)
    assert costs_of(version, max_batch_rows=3).bounds(group) == (3, free.tokens)
    assert costs_of(version, max_batch_tokens=99).bounds(group) == (free.rows, 99)


def test_another_profile_under_the_same_number_counts_and_other_versions_keep_what_they_learnt() -> None:
    costs, profiles = Costs(), Profiles(HERE)
    first, second = version_of(profile_of(), 1), version_of(profile_of(), 2)
    groups = [replace(make_row(), version=number).group for number in (1, 2)]
    costs.expect(profiles.read([first, second]))
    for group in groups:
        for _ in range(50):
            costs.learn(group, [RowCost(8, 8.0, 1)], shape_of(1, 8, 8), 5.0 * seconds_of(1, 8, 8), False)
    learnt = costs.batch_seconds(groups[1], shape_of(1, 8, 8))
    costs.expect(profiles.read([version_of(profile_of(scale=0.5), 1), replace(second)]))
    assert costs.batch_seconds(groups[0], shape_of(1, 8, 8)) == pytest.approx(0.5 * seconds_of(1, 8, 8), rel=0.02)
    assert costs.batch_seconds(groups[1], shape_of(1, 8, 8)) == learnt


BAD_CALLS = (
    ProfiledCall(0, 8, 8, 1, 0.1),
    ProfiledCall(1, 8, -8, 1, 0.1),
    ProfiledCall(1, 8, 8, 0, 0.1),
    ProfiledCall(1, 8, 8, 1, 0.0),
    ProfiledCall(1, 8, 8, 1, math.nan),
    ProfiledCall(1, 8, 8, 1, math.inf),
)


@pytest.mark.parametrize("calls", [(), BAD_CALLS])
def test_a_profile_without_figures_that_can_be_says_nothing(calls: tuple[ProfiledCall, ...]) -> None:
    costs = costs_of(version_of(Profile(HERE.cpu, 1, "2.21.0", calls)))
    assert not costs.trusted(make_row().group)
    assert costs.bounds(make_row().group) == (MAX_BATCH_ROWS, MAX_BATCH_TOKENS)


def test_figures_that_cannot_be_do_no_harm_to_the_others() -> None:
    good = profile_of()
    costs = costs_of(version_of(replace(good, calls=(*BAD_CALLS, *good.calls))))
    assert costs.batch_seconds(make_row().group, shape_of(2, 20, 20)) == pytest.approx(seconds_of(2, 20, 20), rel=0.02)


def test_a_single_call_is_enough_for_a_prediction() -> None:
    costs = costs_of(version_of(Profile(HERE.cpu, 1, "2.21.0", (ProfiledCall(1, 8, 8, 1, 0.1),))))
    group = make_row().group
    assert costs.batch_seconds(group, shape_of(1, 8, 8)) == pytest.approx(0.1, rel=0.01)
    assert costs.bounds(group).rows == 1, "no other size is known to be worth its time"


def test_only_the_embedded_backend_knows_where_models_run() -> None:
    assert machine_of(Settings(backend="embedded", intra_op_threads=3)) == (cpu_name(), 3)
    assert machine_of(Settings(backend="tf-serving")) is None
    assert costs_of(version_of(profile_of(cpu="the replica's")), machine=None).trusted(make_row().group)


@pytest.mark.parametrize("settings", [{}, {"max_batch_rows": 5}, {"max_batch_tokens": 100}])
@pytest.mark.parametrize("profile", [None, profile_of((1,)), profile_of((1, 4))])
def test_the_largest_batch_to_come_is_told_before_there_is_one(
    profile: Profile | None, settings: dict[str, int]
) -> None:
    version = version_of(profile)
    assert version.manifest is not None
    for beam_size in (1, 4):
        bounds = costs_of(version, **settings).bounds(make_row(beam_size=beam_size).group)
        assert most_rows(Settings(**settings), version.manifest, beam_size) == bounds.rows


def test_a_profile_may_allow_larger_batches_than_those_without_one() -> None:
    (with_profile, without) = (version_of(profile).manifest for profile in (profile_of(), None))
    assert with_profile is not None
    assert without is not None
    assert most_rows(Settings(), with_profile, 1) == max(ROWS) > most_rows(Settings(), without, 1) == MAX_BATCH_ROWS
