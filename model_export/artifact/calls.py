"""Rows of texts with options as arrays for ``generate`` and ``generate_ids``, and their outputs as answers per row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model_export.contract import OPTIONS, GoldenCase

Arrays = Mapping[str, NDArray[Any]]
Signature = Callable[[Arrays], Arrays]
"""One signature of a model, wherever it runs: named arrays in and out, texts as object arrays of ``bytes``."""


@dataclass(frozen=True, slots=True)
class Row:
    """One text with its options; ``source_ids`` are its tokens with the framing."""

    text: str
    source_ids: tuple[int, ...]
    options: Mapping[str, bool | int | float] = field(default_factory=dict)  # those that differ from neutral
    prefix_ids: tuple[int, ...] = ()

    @classmethod
    def of_case(cls, case: GoldenCase) -> Row:
        """The question of a golden case."""
        return cls(case.text, case.source_ids, case.options, case.prefix_ids)

    def option(self, name: str) -> bool | int | float:
        """The option's value, neutral where the row does not set it."""
        return self.options.get(name, OPTIONS[name].neutral)


@dataclass(frozen=True, slots=True)
class Answer:
    """The hypotheses that one row asked for, best first."""

    ids: tuple[tuple[int, ...], ...]
    sentences: tuple[str, ...]
    scores: tuple[float, ...]
    finish_reasons: tuple[int, ...]


def on_arrays(function: Callable[..., Mapping[str, tf.Tensor]]) -> Signature:
    """A concrete function, live or of a loaded SavedModel, as a ``Signature``."""

    def signature(inputs: Arrays) -> Arrays:
        outputs = function(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return signature


def generate_inputs(rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
    """Inputs of ``generate``."""
    return {"texts": text_array([row.text for row in rows]), **_option_inputs(rows)}


def generate_ids_inputs(rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
    """Inputs of ``generate_ids``."""
    ids, lengths = padded([row.source_ids for row in rows])
    return {"source_ids": ids, "source_lengths": lengths, **_option_inputs(rows)}


def score_ids_inputs(sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
    """Inputs of ``score_ids``, tokens as they are to be read and scored."""
    (source_ids, source_lengths), (target_ids, target_lengths) = padded(sources), padded(targets)
    return {
        "source_ids": source_ids,
        "source_lengths": source_lengths,
        "target_ids": target_ids,
        "target_lengths": target_lengths,
    }


def read_answers(outputs: Arrays, rows: Sequence[Row]) -> list[Answer]:
    """Outputs of ``generate`` (or ``generate_ids``, whose answers have no sentences) row by row."""
    answers = []
    for index, row in enumerate(rows):
        places = range(int(row.option("num_hypotheses")))
        lengths = outputs["lengths"][index]
        sentences = [outputs["sentences"][index, place] for place in places] if "sentences" in outputs else []
        answers.append(
            Answer(
                ids=tuple(tuple(outputs["ids"][index, place, : lengths[place]].tolist()) for place in places),
                sentences=tuple(sentence.decode("utf-8") for sentence in sentences),
                scores=tuple(float(outputs["scores"][index, place]) for place in places),
                finish_reasons=tuple(int(outputs["finish_reasons"][index, place]) for place in places),
            )
        )
    return answers


def text_array(texts: Sequence[str]) -> NDArray[Any]:
    """Object array [B] of UTF-8."""
    return np.array([text.encode("utf-8") for text in texts], dtype=object)


def padded(ids: Sequence[Sequence[int]], least: int = 0) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """int32 [B, longest] (at least ``least`` wide), padded with 0, and the lengths [B]."""
    lengths = np.array([len(row) for row in ids], dtype=np.int32)
    table = np.zeros([len(ids), max(least, int(lengths.max(initial=0)))], dtype=np.int32)
    for index, row in enumerate(ids):
        table[index, : len(row)] = row
    return table, lengths


def _option_inputs(rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
    prefix_ids, prefix_lengths = padded([row.prefix_ids for row in rows], least=1)
    options = {
        name: np.array([row.option(name) for row in rows], dtype=option.dtype) for name, option in OPTIONS.items()
    }
    return {**options, "prefix_ids": prefix_ids, "prefix_lengths": prefix_lengths}
