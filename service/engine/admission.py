"""Admission: texts become token ids, which are counted against the model's limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model_export.contract import Limits, Manifest
from service.batching import AdmittedRow
from service.errors import InvalidRequest
from service.generation import GenerationOptions, GenerationRequest
from service.tokenization import Tokenizer


@dataclass(frozen=True, slots=True)
class Admission:
    """A row that may run, and how many tokens of its text were cut off."""

    row: AdmittedRow
    truncated_tokens: int


def admit(
    request: GenerationRequest, manifest: Manifest, tokenizer: Tokenizer, in_graph: bool = False
) -> list[Admission]:
    """One row for each text.

    ``in_graph``: the graph tokenizes them again, but those that are cut, which it could not do.

    Raises:
        InvalidRequest: a text has too many tokens or none, or the prefix leaves no room for what is asked for.
    """
    options, limits, framing = request.options, manifest.limits, manifest.framing
    prefix_ids = _prefix_ids(options, tokenizer)
    max_new_tokens = _max_new_tokens(options, limits, len(prefix_ids))
    room = limits.max_source_tokens - len(framing.source_prefix) - len(framing.source_suffix)
    admissions = []
    for index, (text, ids) in enumerate(zip(request.inputs, tokenizer.encode(request.inputs), strict=True)):
        if not ids:
            raise InvalidRequest(
                f"'inputs[{index}]' has nothing but invisible characters: send a text with visible ones"
            )
        excess = max(0, len(ids) - room)
        if excess and not options.truncate:
            raise InvalidRequest(
                f"'inputs[{index}]' has {len(ids)} tokens, and the model reads at most {room}: "
                "shorten it, or set 'truncate' to true"
            )
        source_ids = np.array([*framing.source_prefix, *ids[:room], *framing.source_suffix], dtype=np.int32)
        to_graph = text if in_graph and not excess else None
        row = AdmittedRow(
            request.model, request.version, source_ids, prefix_ids, options, max_new_tokens, options.seed, to_graph
        )
        admissions.append(Admission(row, excess))
    return admissions


def _prefix_ids(options: GenerationOptions, tokenizer: Tokenizer) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    ids = tokenizer.encode([options.prefix])[0] if options.prefix else []
    if options.prefix and not ids:
        raise InvalidRequest("'prefix' has nothing but invisible characters: leave it out, or give visible ones")
    return np.array(ids, dtype=np.int32)


def _max_new_tokens(options: GenerationOptions, limits: Limits, prefix_tokens: int) -> int:
    """The bound that the request sets, or the model's default as far as the target limit allows it."""
    room = limits.max_target_tokens - prefix_tokens
    least = max(1, options.min_new_tokens, options.max_new_tokens or 0)
    if least > room:
        raise InvalidRequest(
            f"'prefix' has {prefix_tokens} tokens, which with {least} new ones exceed the model's "
            f"{limits.max_target_tokens}: shorten it, or ask for fewer new tokens"
        )
    if options.max_new_tokens is not None:
        return options.max_new_tokens
    return min(room, max(limits.default_max_new_tokens, options.min_new_tokens))
