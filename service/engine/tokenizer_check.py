"""Graph and gateway compared on live texts: both tokenize, and must agree, or one of the two modes is wrong."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Sequence
from typing import Final

from service.backend import Backend, ModelVersion
from service.batching import AdmittedRow, ScoringRow
from service.engine.admission import Admission
from service.engine.tokenizing import tokenize_in_graph
from service.errors import ServiceError
from service.settings import Settings
from service.telemetry import Telemetry, log_event

MOST_AT_ONCE: Final = 2
"""Comparisons; samples that come meanwhile are dropped, so that they never crowd out what they are taken from."""


class TokenizerCheck:
    """Compares a share of the texts that were answered; belongs to one event loop."""

    def __init__(self, backend: Backend, settings: Settings, telemetry: Telemetry, chance: random.Random) -> None:
        self._backend = backend
        self._share = settings.tokenizer_check_share
        self._timeout_s = settings.default_timeout_ms / 1000
        self._telemetry = telemetry
        self._chance = chance
        self._running: set[asyncio.Task[None]] = set()
        self._told: set[tuple[str, int]] = set()

    def offer(
        self,
        served: ModelVersion,
        texts: Sequence[str],
        admissions: Sequence[Admission[AdmittedRow] | Admission[ScoringRow]],
    ) -> None:
        """Texts that ``served`` answered; those that are drawn are compared in the background.

        A text that was cut never is: it may be far longer than anything that the graph is to read.
        """
        manifest = served.manifest
        sample = [
            index
            for index, admission in enumerate(admissions)
            if not admission.truncated_tokens and self._chance.random() < self._share
        ]
        if (
            not sample
            or manifest is None
            or "tokenize" not in manifest.signatures
            or len(self._running) >= MOST_AT_ONCE
        ):
            return
        start, end = len(manifest.framing.source_prefix), len(manifest.framing.source_suffix)
        framed = [admissions[index].row.source_ids for index in sample]
        ids = [each[start : len(each) - end] for each in framed]
        task = asyncio.create_task(self._compare(served, [texts[index] for index in sample], ids))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """End the comparisons that run."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _compare(self, served: ModelVersion, texts: Sequence[str], expected: Sequence[Sequence[int]]) -> None:
        predict = functools.partial(self._backend.predict, served.name, served.version, timeout_s=self._timeout_s)
        try:
            found = await tokenize_in_graph(texts, [len(ids) for ids in expected], predict)
        except ServiceError:
            return  # it went meanwhile, or has no time: that says nothing of tokenizers
        for gateway, graph in zip(expected, found, strict=True):
            if tuple(gateway) != graph.ids:
                self._mismatch(served, gateway, graph.ids)

    def _mismatch(self, served: ModelVersion, gateway: Sequence[int], graph: Sequence[int]) -> None:
        self._telemetry.tokenizer_mismatch.labels(served.name).inc()
        if (served.name, served.version) in self._told:
            return
        self._told.add((served.name, served.version))
        common = zip(gateway, graph)  # noqa: B905  their lengths may differ
        position = next(
            (index for index, (one, other) in enumerate(common) if one != other), min(len(gateway), len(graph))
        )
        log_event(
            "graph and gateway tokenize a text differently; told once for a version",
            logging.WARNING,
            model_name=served.name,
            model_version=served.version,
            position=position,  # of the first difference; the ids around it would spell the text
            gateway_id=gateway[position] if position < len(gateway) else None,
            graph_id=graph[position] if position < len(graph) else None,
            gateway_tokens=len(gateway),
            graph_tokens=len(graph),
        )
