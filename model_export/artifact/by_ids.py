"""Texts for an artifact that takes ids alone: tokenized here, as a gateway in front of it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from model_export.artifact.calls import Arrays, Signature, padded, score_ids_inputs
from model_export.contract import FinishReason, Manifest


def by_ids(signatures: Mapping[str, Signature], manifest: Manifest, tokenizer: bytes) -> dict[str, Signature]:
    """``generate`` and ``score`` by ``generate_ids`` and ``score_ids``, those that there are.

    Texts become tokens, and tokens texts, by the artifact's own SentencePiece model.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)

    before, after = manifest.framing.source_prefix, manifest.framing.source_suffix

    def encoded(texts: NDArray[Any]) -> list[list[int]]:
        return [processor.encode(text.decode("utf-8")) for text in texts]

    def sources(inputs: Arrays) -> list[tuple[int, ...]]:
        return [(*before, *ids, *after) for ids in encoded(inputs["texts"])]

    def generate(inputs: Arrays) -> Arrays:
        options = {name: value for name, value in inputs.items() if name != "texts"}
        ids, lengths = padded(sources(inputs))
        outputs = signatures["generate_ids"]({"source_ids": ids, "source_lengths": lengths, **options})
        return {**outputs, "sentences": _sentences(processor, options, outputs)}

    def score(inputs: Arrays) -> Arrays:
        targets = [(*ids, manifest.special_ids.eos) for ids in encoded(inputs["targets"])]
        return signatures["score_ids"](score_ids_inputs(sources(inputs), targets))

    made = {"generate": generate, "score": score}
    return {name: signature for name, signature in made.items() if f"{name}_ids" in signatures}


def _sentences(processor: sentencepiece.SentencePieceProcessor, options: Arrays, outputs: Arrays) -> NDArray[Any]:
    """Prefix and new tokens as text, [B, K]; empty where there is no hypothesis."""
    sentences = np.full(outputs["lengths"].shape, b"", object)
    for row, place in zip(*np.nonzero(outputs["finish_reasons"] != FinishReason.NONE), strict=True):
        ends = outputs["finish_reasons"][row, place] == FinishReason.EOS_TOKEN
        prefix = options["prefix_ids"][row, : options["prefix_lengths"][row]]
        new = outputs["ids"][row, place, : outputs["lengths"][row, place] - ends]
        sentences[row, place] = processor.decode([*prefix.tolist(), *new.tolist()]).encode("utf-8")
    return sentences
