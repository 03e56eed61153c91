"""Who tokenizes, the gateway or the artifact's graph, with the same result; ``tokenize`` and ``detokenize`` by both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import numpy as np

from model_export.contract import Manifest
from service.backend import Arrays, pad_ids
from service.engine.off_loop import off_loop_if_long
from service.errors import InvalidRequest
from service.generation import Tokens
from service.tokenization import Tokenizer

MAX_TOKENIZED: Final = 100_000
"""Tokens that one call of ``tokenize`` answers: normalization makes up to 18 characters of one, so that a body within
its limits could ask for an answer of 100 MB. Also the most positions, padding included, of one call of the graph."""
KINDS: Final = frozenset({"sentencepiece"})
"""Kinds of tokenizers, as manifests name them, that the gateway has."""

Predict = Callable[[str, Arrays], Awaitable[Arrays]]
"""Runs the signature of that name."""


def graph_tokenizes(manifest: Manifest, mode: str) -> bool:
    """Whether texts go to the graph, by ``Settings.tokenize``; an artifact for ids alone leaves no choice."""
    if "generate" not in manifest.signatures or mode == "gateway":
        return False
    return mode == "graph" or manifest.tokenizer.kind not in KINDS


async def tokenize(texts: Sequence[str], tokenizer: Tokenizer, graph: Predict | None) -> tuple[Tokens, ...]:
    """Ids and pieces of every text, by the graph if given.

    Raises:
        InvalidRequest: there are more than ``MAX_TOKENIZED``.
        ServiceError: as ``graph`` does.
    """
    characters = sum(map(len, texts))
    sequences = await off_loop_if_long(characters, lambda: _encode(texts, tokenizer))
    if graph is not None:
        return await tokenize_in_graph(texts, [len(ids) for ids in sequences], graph)
    return await off_loop_if_long(
        characters, lambda: tuple(Tokens(tuple(ids), tuple(tokenizer.pieces(ids))) for ids in sequences)
    )


async def tokenize_in_graph(texts: Sequence[str], lengths: Sequence[int], graph: Predict) -> tuple[Tokens, ...]:
    """Ids and pieces of every text; ``lengths`` are their expected numbers."""
    tokens: list[Tokens] = []
    for rows in _batches(lengths):
        batch = [text.encode() for text in texts[rows]]
        outputs = await graph("tokenize", {"texts": np.array(batch, dtype=object)})
        for ids, pieces, length in zip(outputs["ids"], outputs["pieces"], outputs["lengths"].tolist(), strict=True):
            tokens.append(Tokens(tuple(ids[:length].tolist()), tuple(map(_text, pieces[:length]))))
    return tuple(tokens)


async def detokenize(
    sequences: Sequence[Sequence[int]], tokenizer: Tokenizer, graph: Predict | None
) -> tuple[str, ...]:
    """The text of every sequence of ids, by the graph if given. Raises ServiceError as ``graph`` does."""
    lengths = [len(ids) for ids in sequences]
    if graph is None:
        return tuple(await off_loop_if_long(sum(lengths), lambda: tokenizer.decode(sequences)))
    texts: list[str] = []
    for rows in _batches(lengths):
        ids, ids_lengths = pad_ids(sequences[rows])
        outputs = await graph("detokenize", {"ids": ids, "lengths": ids_lengths})
        texts.extend(map(_text, outputs["sentences"]))
    return tuple(texts)


def _encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    sequences: list[list[int]] = []
    tokens = 0
    for text in texts:
        (ids,) = tokenizer.encode([text])
        tokens += len(ids)
        if tokens <= MAX_TOKENIZED:  # beyond, they are counted only: all at once they would take much memory
            sequences.append(ids)
    if tokens > MAX_TOKENIZED:
        raise InvalidRequest(
            f"'inputs' have {tokens} tokens, and one call takes at most {MAX_TOKENIZED}: send fewer or shorter texts"
        )
    return sequences


def _batches(lengths: Sequence[int]) -> Iterator[slice]:
    """Neighbours of at most ``MAX_TOKENIZED`` padded positions, or one that is longer: padding costs memory."""
    start, longest = 0, 0
    for index, length in enumerate(lengths):
        longest = max(longest, length)
        if index > start and longest * (index + 1 - start) > MAX_TOKENIZED:
            yield slice(start, index)
            start, longest = index, length
    yield slice(start, len(lengths))


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
