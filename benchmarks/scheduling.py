"""What the scheduler is worth against plain first-come batching, with 70, 100 and 300 % of what can be run.

Requests of one text arrive at random (Poisson), whether or not others were answered: 80 % short and greedy, 15 % long
and greedy, 5 % with four beams, each to be answered within 2 to 10 s. Both policies get the same ones, in turns. Plain
first-come batching takes the oldest row and, in order of age, others that may share a call with it, within the same
bounds; it knows no costs, and refuses only what its queue has no room for. Capacity is what it runs with all at once.
A run goes on until its last request has got its answer or error; tokens are useful if they came by their deadline.

    python -m benchmarks.scheduling                        on a virtual clock: no noise but what is simulated; a minute
    python -m benchmarks.scheduling --model build/models   with the first model there, in this process; four minutes
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from service.backend import Arrays, Backend, ModelVersion, VersionState
from service.backends.embedded import EmbeddedBackend
from service.batching import AdmittedRow, Batcher
from service.batching.costs import BatchShape
from service.batching.jobs import Entry, Job
from service.batching.scheduler import Scheduler
from service.batching.waiting import Waiting
from service.engine.admission import admit
from service.errors import DeadlineExceeded, Overloaded
from service.generation import GenerationOptions, GenerationRequest
from service.settings import MAX_BATCH_ROWS, Settings
from service.telemetry import Telemetry
from service.tokenization import SentencePieceTokenizer
from tests.support.rows import make_row
from tests.support.virtual_loop import run_virtually

LOADS = (0.7, 1.0, 3.0)
SHORT, LONG, BEAMS = 0.80, 0.15, 0.05
TIMEOUTS_S = (2.0, 10.0)
CAPACITY_ROWS = 1000
WIDTH = 120
SENTENCES = Path(__file__).parents[1] / "models" / "en-fr" / "samples.txt"


class FirstCome(Scheduler):
    """Oldest first, whatever it costs; refuses nothing but what there is no room for."""

    def _entry(self, job: Job, index: int, now: float) -> Entry:
        return replace(super()._entry(job, index, now), due=now)

    def _in_time(self, entry: Entry, now: float, slots: int) -> bool:
        return True

    def _fill(self, first: Entry, waiting: Waiting, now: float, most: int) -> tuple[list[Entry], BatchShape]:
        entries, shape = [], BatchShape()
        for _, _, entry in heapq.merge(*waiting._groups[first.group].values()):
            larger = shape.with_row(entry.cost)
            if entries and (
                len(entries) == most or larger.padded_positions > self.costs.bounds(first.row.group).tokens
            ):
                break
            entries.append(entry)
            shape = larger
        return entries, shape


POLICIES: dict[str, type[Scheduler]] = {"first come": FirstCome, "scheduler": Scheduler}


class Mix(Protocol):
    """Where rows come from."""

    def row(self, chance: random.Random, words: int, beam_size: int) -> AdmittedRow:
        """A row of about so many words."""
        ...


class Arrival(NamedTuple):
    """One request of one row."""

    at: float
    row: AdmittedRow
    timeout_s: float


def some_row(mix: Mix, chance: random.Random) -> AdmittedRow:
    """A row of the mixture."""
    kind = chance.random()
    if kind < SHORT:
        return mix.row(chance, chance.randint(3, 12), 1)
    if kind < SHORT + LONG:
        return mix.row(chance, chance.randint(30, 90), 1)
    return mix.row(chance, chance.randint(6, 30), 4)


def arrivals(mix: Mix, seed: int, rows_per_s: float, seconds: float) -> list[Arrival]:
    """Requests at random times; the same for the same seed."""
    chance, at, found = random.Random(seed), 0.0, []
    while (at := at + chance.expovariate(rows_per_s)) < seconds:
        found.append(Arrival(at, some_row(mix, chance), chance.uniform(*TIMEOUTS_S)))
    return found


@dataclass
class Outcome:
    """What became of the requests of one run. An answer that comes is in time: at its deadline a request ends."""

    latencies: list[float]
    tokens: int
    refusals: list[float]  # how long each took
    late: int
    seconds: float  # until the last was answered

    def figures(self) -> dict[str, float]:
        """What the table shows."""
        asked = len(self.latencies) + len(self.refusals) + self.late
        ordered = sorted(self.latencies)
        return {
            "useful tokens/s": self.tokens / self.seconds,
            "answered %": 100 * len(ordered) / asked,
            "p50 s": ordered[len(ordered) // 2],
            "p99 s": ordered[int(0.99 * len(ordered))],
            "refused %": 100 * len(self.refusals) / asked,
            "late %": 100 * self.late / asked,
            "refused within ms": 1e3 * max(self.refusals, default=0.0),
        }


async def drive(batcher: Batcher, requests: Sequence[Arrival]) -> Outcome:
    """Send every request at its time, and wait for all answers."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    outcome = Outcome([], 0, [], 0, 0.0)

    async def send(request: Arrival) -> None:
        await asyncio.sleep(started + request.at - loop.time())
        sent = started + request.at  # not when the loop found the time to: waiting for that is waiting too
        asked = loop.time()
        try:
            (result,) = await batcher.run([request.row], sent + request.timeout_s, "")
        except Overloaded:
            outcome.refusals.append(loop.time() - asked)
        except DeadlineExceeded:
            outcome.late += 1
        else:
            outcome.latencies.append(loop.time() - sent)
            outcome.tokens += int(result.row.lengths[0])

    await asyncio.gather(*map(send, requests))
    outcome.seconds = loop.time() - started
    return outcome


async def compare(
    backend: Backend, mix: Mix, rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[str, dict[str, dict[str, float]]]:
    """Medians of every figure, by load and policy."""
    settings = Settings()
    bounds = settings.queue_rows, settings.max_batch_rows, settings.max_batch_tokens

    def batcher(policy: str) -> Batcher:
        return Batcher(backend, settings, Telemetry(), POLICIES[policy](*bounds))

    chance = random.Random(0)
    crowd = [Arrival(0.0, some_row(mix, chance), 3600.0) for _ in range(CAPACITY_ROWS)]
    await drive(batcher("first come"), crowd[: CAPACITY_ROWS // 4])  # warm-up
    capacity = CAPACITY_ROWS / (await drive(batcher("first come"), crowd)).seconds
    say(f"capacity: {capacity:.1f} rows/s")
    # As in a server that has run for a while, each policy has its experience.
    batchers = {policy: batcher(policy) for policy in POLICIES}
    for each in batchers.values():
        await drive(each, arrivals(mix, 1, 0.5 * capacity, seconds / 2))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for load in LOADS:
        runs: dict[str, list[dict[str, float]]] = {policy: [] for policy in POLICIES}
        for turn in range(rounds):
            requests = arrivals(mix, 100 + turn, load * capacity, seconds)
            for policy in POLICIES:
                runs[policy].append((await drive(batchers[policy], requests)).figures())
            say(f"{load:.0%}, round {turn + 1} of {rounds}")
        found[f"{load:.0%}"] = {
            policy: {name: statistics.median(each[name] for each in figures) for name in figures[0]}
            for policy, figures in runs.items()
        }
    return found


class SimulatedBackend:
    """A ``Backend``, as far as a batcher uses it: calls take as long as their rows' lengths say, with some noise."""

    slots = 2
    SECONDS = (1.5e-2, 2.5e-3, 1.5e-4, 2e-5)  # of a call, its steps, tokens decoded, padded tokens read

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Nothing ever changes."""

    def versions(self) -> Sequence[ModelVersion]:
        """None that has a manifest."""
        return ()

    async def predict(
        self, name: str, version: int, signature: str, inputs: Arrays, timeout_s: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """Targets of some 1.2 tokens for each of the source; which, depends on the row alone."""
        sources, seeds = inputs["source_lengths"], inputs["seed"]
        noise = np.array([random.Random(int(seed)).gauss(1.2, 0.2) for seed in seeds])
        lengths = np.clip(np.rint(sources * noise), 1, inputs["max_new_tokens"]).astype(np.int32)
        decoded = int((lengths * inputs["beam_size"]).sum())
        work = np.array([1, lengths.max(), decoded, inputs["source_ids"].size]) @ self.SECONDS
        await asyncio.sleep(work * random.Random(int(seeds.sum())).lognormvariate(0.0, 0.15))
        shape = len(lengths), 1  # [B, K]
        per_token = np.zeros((*shape, int(lengths.max())), np.int32)
        return {
            "ids": per_token,
            "lengths": lengths[:, None],
            "finish_reasons": np.ones(shape, np.int32),
            "scores": np.zeros(shape, np.float32),
            "normalized_scores": np.zeros(shape, np.float32),
            "token_log_probs": per_token.astype(np.float32),
            "source_lengths": sources,
        }


class SimulatedMix:
    """Rows of ids."""

    def row(self, chance: random.Random, words: int, beam_size: int) -> AdmittedRow:
        """A word is a token and a half."""
        return replace(make_row(round(1.5 * words) + 1, beam_size=beam_size), seed=chance.getrandbits(30))


class SentenceMix:
    """Rows of English sentences."""

    def __init__(self, backend: Backend) -> None:
        served = next(each for each in backend.versions() if each.state is VersionState.READY)
        assert served.manifest is not None
        assert served.tokenizer is not None
        self._served, self._manifest = served, served.manifest
        self._tokenizer = SentencePieceTokenizer(served.tokenizer)
        self._words = [line.split() for line in SENTENCES.read_text().splitlines()]

    def row(self, chance: random.Random, words: int, beam_size: int) -> AdmittedRow:
        """As many sentences as have so many words."""
        text: list[str] = []
        while len(text) < words:
            text += chance.choice(self._words)
        options = GenerationOptions(beam_size=beam_size, truncate=True)
        request = GenerationRequest(self._served.name, self._served.version, (" ".join(text[:words]),), options)
        return admit(request, self._manifest, self._tokenizer)[0].row


async def compare_real(models: Path, rounds: int, seconds: float, say: Callable[[str], None]) -> Any:
    """``compare`` with the model in that folder, in this process."""
    settings = Settings()
    backend = EmbeddedBackend(
        models,
        slots=settings.concurrent_runs,
        intra_op_threads=settings.intra_op_threads,
        max_batch_rows=settings.max_batch_rows or MAX_BATCH_ROWS,
    )
    await backend.start()
    try:
        return await compare(backend, SentenceMix(backend), rounds, seconds, say)
    finally:
        await backend.close()


def report(
    title: str, found: dict[str, dict[str, dict[str, float]]], ours: str = "scheduler", plain: str = "first come"
) -> None:
    """A table of every figure, and the two that matter as ratios."""
    names = list(next(iter(next(iter(found.values())).values())))
    table = Table("load", "policy", *names, title=title)
    for load, policies in found.items():
        for policy, figures in policies.items():
            table.add_row(load, policy, *(f"{figures[name]:.4g}" for name in names))
    console = Console(width=WIDTH)
    console.print(table)
    for load, policies in found.items():
        p99 = policies[plain]["p99 s"] / policies[ours]["p99 s"]
        tokens = policies[ours]["useful tokens/s"] / policies[plain]["useful tokens/s"]
        console.print(f"{load}: p99 {p99:.2f} times shorter, {tokens:.2f} times the useful tokens/s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of models, such as build/models; the first is asked")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, help="of arrivals in a round; by default 10, and 60 on a virtual clock"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)

    if arguments.model is None:
        title = "simulated model on a virtual clock"
        backend: Any = SimulatedBackend()
        found = run_virtually(compare(backend, SimulatedMix(), arguments.rounds, arguments.seconds or 60.0, say))
    else:
        title = f"{arguments.model} in this process"
        found = asyncio.run(compare_real(arguments.model, arguments.rounds, arguments.seconds or 10.0, say))
    report(title, found)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"title": title, "medians": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
