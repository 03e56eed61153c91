"""Texts for an artifact that takes ids alone: tokenized here, as a gateway in front of it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from model_export.artifact.calls import Arrays, Signature, padded
from model_export.contract import FinishReason, Manifest


def generate_by_ids(generate_ids: Signature, manifest: Manifest, tokenizer: bytes) -> Signature:
    """The signature ``generate`` made of ``generate_ids`` and the artifact's own SentencePiece model."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
    before, after = manifest.framing.source_prefix, manifest.framing.source_suffix

    def generate(inputs: Arrays) -> Arrays:
        options = {name: value for name, value in inputs.items() if name != "texts"}
        sources = [(*before, *processor.encode(text.decode("utf-8")), *after) for text in inputs["texts"]]
        ids, lengths = padded(sources)
        outputs = generate_ids({"source_ids": ids, "source_lengths": lengths, **options})
        return {**outputs, "sentences": _sentences(processor, options, outputs)}

    return generate


def _sentences(processor: sentencepiece.SentencePieceProcessor, options: Arrays, outputs: Arrays) -> NDArray[Any]:
    """Prefix and new tokens as text, [B, K]; empty where there is no hypothesis."""
    sentences = np.full(outputs["lengths"].shape, b"", object)
    for row, place in zip(*np.nonzero(outputs["finish_reasons"] != FinishReason.NONE), strict=True):
        ends = outputs["finish_reasons"][row, place] == FinishReason.EOS_TOKEN
        prefix = options["prefix_ids"][row, : options["prefix_lengths"][row]]
        new = outputs["ids"][row, place, : outputs["lengths"][row, place] - ends]
        sentences[row, place] = processor.decode([*prefix.tolist(), *new.tolist()]).encode("utf-8")
    return sentences
