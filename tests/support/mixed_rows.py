"""Rows that differ in everything rows of one call may differ in, and changes to inputs that a graph must refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from model_export.artifact.calls import Row, Signature, text_array
from model_export.text.tokenizers import EOS_ID

MIXED = (
    Row("the cat sat on the mat", (), {"max_new_tokens": 9}),
    Row("오늘 날씨가 좋네요", (), {"min_new_tokens": 7, "max_new_tokens": 20}),
    Row("日本語の本を読む", (), {"max_new_tokens": 3}, prefix_ids=(270, 281, 290)),
    Row("🎉 unknown ሰላም", (), {}),
    Row("a", (), {"max_new_tokens": 1}),
    Row("", (), {"seed": 7, "do_sample": True, "top_k": 5}, prefix_ids=(300,)),
)


def with_beams(rows: tuple[Row, ...], most: int) -> list[Row]:
    """The rows with 1 to ``most`` beams, those that draw with one, and options that only matter to them."""
    varied = []
    for index, row in enumerate(rows):
        beam_size = 1 if row.option("do_sample") else most - index % most
        penalty = (0.0, 1.0, 2.0)[index % 3]
        varied.append({"beam_size": beam_size, "num_hypotheses": 1 + index % beam_size, "length_penalty": penalty})
    return [replace(row, options={**row.options, **more}) for row, more in zip(rows, varied, strict=True)]


def framed(rows: list[Row], tokenize: Signature) -> list[Row]:
    """The rows with the tokens of their texts."""
    outputs = tokenize({"texts": text_array([row.text for row in rows])})
    ids = [tuple(ids[:length].tolist()) for ids, length in zip(outputs["ids"], outputs["lengths"], strict=True)]
    return [replace(row, source_ids=(*tokens, EOS_ID)) for row, tokens in zip(rows, ids, strict=True)]


def set_option(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(inputs: dict[str, Any]) -> None:
        inputs[name] = np.full_like(inputs[name], value)

    return change


def no_rows(inputs: dict[str, Any]) -> None:
    for name, value in inputs.items():
        inputs[name] = value[:0]
