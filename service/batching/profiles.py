"""What a model's profile says of its calls: the seconds to expect, and how large a batch is worth its time."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from model_export.contract import Manifest, Profile, ProfiledCall, cpu_name
from service.backend import ModelVersion, VersionState
from service.batching.costs import BatchShape, Bounds, Costs, Expectation, Expectations, RowCost
from service.batching.regression import TRUSTED_AFTER, Fit, Regression, fit
from service.settings import Settings
from service.telemetry import log_event

GAIN: Final = 0.1
"""A batch of twice the rows must give at least this part more tokens a second: its rows wait nearly twice as long."""
HERE: Final = 2.0 * TRUSTED_AFTER
"""Batches that a profile counts for which was measured on such a machine: enough to be trusted."""
ELSEWHERE: Final = 1.0
"""And one from another machine: what a call costs beside another one it still knows best."""


class Machine(NamedTuple):
    """What measured times hold for."""

    cpu: str
    intra_op_threads: int


def machine_of(settings: Settings) -> Machine | None:
    """Where the models run; None: elsewhere, and only who profiled them there knows."""
    return Machine(cpu_name(), settings.intra_op_threads) if settings.backend == "embedded" else None


class Profiles:
    """The profiles of the versions that there are, each read once."""

    def __init__(self, machine: Machine | None) -> None:
        """``machine``: profiles of others are not trusted; None: all are."""
        self._machine = machine
        self._read: dict[tuple[str, int], tuple[Manifest, dict[int, Expectation]]] = {}

    def read(self, versions: Iterable[ModelVersion]) -> Expectations:
        """What to expect of those that are READY. What was not changed is the very same object as before."""
        before, self._read = self._read, {}
        for each in versions:
            if each.state is VersionState.READY and each.manifest is not None and each.manifest.profile is not None:
                key = each.name, each.version
                known = before.get(key)
                if known is None or known[0].profile != each.manifest.profile:
                    known = each.manifest, self._expectations(each, each.manifest, each.manifest.profile)
                self._read[key] = known
        return {key: expectations for key, (_, expectations) in self._read.items()}

    def _expectations(self, version: ModelVersion, manifest: Manifest, profile: Profile) -> dict[int, Expectation]:
        here = self._machine is None or self._machine == Machine(profile.cpu, profile.intra_op_threads)
        found = expectations(profile, manifest.limits.max_beam_size, HERE if here else ELSEWHERE)
        measured = {size: found[size] for size in sorted({call.beam_size for call in profile.calls} & found.keys())}
        errors = [abs(error) for each in measured.values() for error in each.seconds.errors]
        log_event(
            "profile read"
            if here
            else "profile is of another machine: times are learnt anew before they refuse anybody",
            logging.INFO if here else logging.WARNING,
            model_name=version.name,
            model_version=version.version,
            measured_on=profile.cpu,
            intra_op_threads=profile.intra_op_threads,
            median_error=round(statistics.median(errors), 3) if errors else None,
            max_batch_rows={beam_size: each.bounds.rows for beam_size, each in measured.items()},
            max_batch_tokens={beam_size: each.bounds.tokens for beam_size, each in measured.items()},
        )
        return found


def most_rows(settings: Settings, manifest: Manifest, beam_size: int) -> int:
    """Rows of the largest batch that a server will make for the model of ``manifest``."""
    costs = Costs(settings.max_batch_rows, settings.max_batch_tokens)
    version = manifest.model_name, 1
    if manifest.profile is not None:
        costs.expect({version: expectations(manifest.profile, manifest.limits.max_beam_size, ELSEWHERE)})
    return costs.bounds((*version, "generate_ids", beam_size)).rows


def expectations(profile: Profile, max_beam_size: int, weight: float) -> dict[int, Expectation]:
    """By beam size, from 1 on.

    Beams that were not measured cost what the nearest did that were; but greedy search, which runs another loop, tells
    of beams only where none was measured, and they of it. Figures that cannot be are not believed.
    """
    measured: dict[int, list[ProfiledCall]] = {}
    for call in filter(_can_be, profile.calls):
        measured.setdefault(call.beam_size, []).append(call)
    fits = {beam_size: fit([_observation(call) for call in calls]) for beam_size, calls in measured.items()}
    found = {}
    for beam_size in range(1, max_beam_size + 1) if measured else ():
        like = min(measured, key=lambda other: ((other == 1) != (beam_size == 1), abs(other - beam_size)))
        bounds = _worth_while(fits[like], measured[like], beam_size)
        found[beam_size] = Expectation(fits[like], weight, bounds)
    return found


def _can_be(call: ProfiledCall) -> bool:
    return min(call.rows, call.source_tokens, call.new_tokens, call.beam_size) >= 1 and 0.0 < call.seconds < math.inf


def _observation(call: ProfiledCall) -> tuple[Sequence[float], float]:
    shape = BatchShape()
    for _ in range(call.rows):
        shape = shape.with_row(RowCost(call.source_tokens, float(call.new_tokens), call.beam_size))
    return shape.features, call.seconds


def _worth_while(costs: Fit, calls: Sequence[ProfiledCall], beam_size: int) -> Bounds:
    """The largest batch that is worth its time at any of the lengths measured; of no more rows than were measured."""
    most = max(call.rows for call in calls)
    bounds = []
    for source_tokens, new_tokens in {(call.source_tokens, call.new_tokens) for call in calls}:
        cost = RowCost(source_tokens, float(new_tokens), beam_size)
        rows = max(1, min(most, round(_rows_worth_while(costs, cost))))
        bounds.append(Bounds(rows, round(rows * cost.positions * cost.width)))
    return Bounds(max(each.rows for each in bounds), max(each.tokens for each in bounds))


def _rows_worth_while(costs: Fit, cost: RowCost) -> float:
    """Where one more doubling of a batch of like rows gives just ``GAIN``.

    b rows take F + V b seconds; twice as many give 2 (F + V b) / (F + 2 V b) times the tokens a second, which is
    1 + GAIN at b = F (1 - GAIN) / (2 V GAIN).
    """
    prediction = Regression(costs.coefficients)
    one_row = BatchShape().with_row(cost)
    one = prediction.predict(one_row.features)
    by_row = prediction.predict(one_row.with_row(cost).features) - one
    return (one - by_row) * (1.0 - GAIN) / (2.0 * by_row * GAIN)
