"""Where the time of a call goes: seconds and counts by type of operation, of an artifact in a TF1 session."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from rich.table import Table

from model_export.artifact.calls import Arrays
from model_export.artifact.reloaded import SERVE_TAG

_CONTAINERS = ("PartitionedCall", "StatefulPartitionedCall", "While", "If", "StatelessIf", "StatelessWhile")
"""Their time is that of the operations within."""


@dataclass(frozen=True)
class OpTime:
    """One type of operation in one call."""

    op: str
    count: int
    seconds: float


def op_times(artifact: Path, inputs: Arrays, runs: int = 9, warmup: int = 3) -> tuple[list[OpTime], float, float]:
    """Median time of every type of operation in a call of ``generate_ids``, the costliest first; that of whole calls
    while traced, and while not.

    Tracing makes calls of many small operations several times as long, mostly between the operations.
    """
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    config.graph_options.rewrite_options.constant_folding = config.graph_options.rewrite_options.OFF
    options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
    traced: list[dict[str, OpTime]] = []
    totals: list[float] = []
    untraced: list[float] = []
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        meta_graph = tf.compat.v1.saved_model.load(session, [SERVE_TAG], str(artifact))
        signature = meta_graph.signature_def["generate_ids"]
        fetches = {name: info.name for name, info in signature.outputs.items()}
        feeds: dict[str, Any] = {signature.inputs[name].name: value for name, value in inputs.items()}
        for _ in range(warmup):
            session.run(fetches, feeds)
        for _ in range(runs):
            start = time.perf_counter()
            session.run(fetches, feeds)
            untraced.append(time.perf_counter() - start)
        for _ in range(runs):
            metadata = tf.compat.v1.RunMetadata()
            session.run(fetches, feeds, options=options, run_metadata=metadata)
            nodes = [node for device in metadata.step_stats.dev_stats for node in device.node_stats]
            totals.append((max(map(_end, nodes)) - min(node.all_start_micros for node in nodes)) / 1e6)
            traced.append(_by_op(nodes))
    times = [
        OpTime(op, traced[0][op].count, statistics.median(run[op].seconds for run in traced if op in run))
        for op in traced[0]
    ]
    times.sort(key=lambda each: -each.seconds)
    return times, statistics.median(totals), statistics.median(untraced)


def _by_op(nodes: list[Any]) -> dict[str, OpTime]:
    seconds: dict[str, list[float]] = defaultdict(list)
    for node in nodes:
        seconds[_op(node)].append((node.op_end_rel_micros - node.op_start_rel_micros) / 1e6)
    return {op: OpTime(op, len(each), sum(each)) for op, each in seconds.items() if op not in _CONTAINERS}


def table(title: str, times: list[OpTime], traced: float, untraced: float) -> Table:
    """One row for every type that takes at least a thousandth of the untraced call, with its share of that."""
    shown = Table("operation", "ms", "share", "count", "us each", title=title)
    for each in times:
        if each.seconds >= 1e-3 * untraced:
            figures = (f"{1e3 * each.seconds:.2f}", f"{100 * each.seconds / untraced:.1f} %", f"{each.count}")
            shown.add_row(each.op, *figures, f"{1e6 * each.seconds / each.count:.1f}")
    within, count = sum(each.seconds for each in times), sum(each.count for each in times)
    shown.add_section()
    shown.add_row("all operations", f"{1e3 * within:.2f}", f"{100 * within / untraced:.1f} %", f"{count}", "")
    shown.add_row("whole call", f"{1e3 * untraced:.2f}", "", "", "")
    shown.add_row("whole call, traced", f"{1e3 * traced:.2f}", "", "", "")
    return shown


def _end(node: Any) -> int:
    return int(node.all_start_micros + node.all_end_rel_micros)


def _op(node: Any) -> str:
    """``name = Op(inputs)`` is how a node is labelled."""
    return str(node.timeline_label).partition(" = ")[2].partition("(")[0] or str(node.node_name)
