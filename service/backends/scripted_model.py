"""The model of the scripted backend: what its signatures answer.

It likes the tokens of its source, the next one best; so that of a source, end of sentence aside,

    hypothesis k = the source tokens turned left by k places, then end of sentence
    sample k     = the same, turned by a number that is drawn from the row's seed and k, below ``top_k`` if given

A forced prefix takes the place of the first tokens; ``min_new_tokens`` is met by repeating the tokens from their
start; ``max_new_tokens`` cuts. All other options are taken and change nothing.

At each place the tokens have an order: the next of the source and those behind it, around its end; the end of the
sentence, before them once the source is through, behind them until then; all others. The r-th of them, from 0, has a
log-probability of -(r + 1) * (1/8 + id % 8 / 1024), whoever asks: what ``generate`` tells of a text is what ``score``
tells of it. Every answer depends on its own row alone.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_export.contract import OPTIONS, FinishReason, Manifest
from service.backend import Arrays, pad_ids
from service.backends.scripted_artifact import tiny_tokenizer
from service.errors import BackendFailed
from service.tokenization import SentencePieceTokenizer

Run = Callable[[Arrays, Manifest], dict[str, NDArray[Any]]]


@functools.cache
def _tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(tiny_tokenizer())


def _describe(inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
    return {"manifest": _strings([manifest.to_json().encode()]), "tokenizer": _strings([tiny_tokenizer()])}


def _tokenize(inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
    sequences = _tokenizer().encode([text.decode() for text in inputs["texts"]])
    ids, lengths = pad_ids(sequences)
    pieces = np.full(ids.shape, b"", dtype=object)
    for row, sequence in enumerate(sequences):
        pieces[row, : len(sequence)] = [piece.encode() for piece in _tokenizer().pieces(sequence)]
    return {"ids": ids, "lengths": lengths, "pieces": pieces}


def _detokenize(inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
    rows = zip(inputs["ids"].tolist(), inputs["lengths"].tolist(), strict=True)
    texts = _tokenizer().decode([ids[:length] for ids, length in rows])
    return {"sentences": _strings([text.encode() for text in texts])}


def _generate(inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """``generate_ids`` between ``tokenize`` and ``detokenize``."""
    options = {name: array for name, array in inputs.items() if name != "texts"}
    outputs = _generate_ids({**_sources(inputs["texts"], manifest), **options}, manifest)
    outputs["sentences"] = np.full(outputs["lengths"].shape, b"", dtype=object)
    for row, place in zip(*np.nonzero(outputs["finish_reasons"]), strict=True):
        prefix = inputs["prefix_ids"][row, : inputs["prefix_lengths"][row]].tolist()
        ended = outputs["finish_reasons"][row, place] == FinishReason.EOS_TOKEN
        new = outputs["ids"][row, place, : outputs["lengths"][row, place] - ended].tolist()
        outputs["sentences"][row, place] = _tokenizer().decode([prefix + new])[0].encode()
    return outputs


def _generate_ids(inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
    if len(set(inputs["beam_size"].tolist())) != 1 and not manifest.mixed_beam_sizes:
        raise BackendFailed("rows of one call have unlike beam sizes")
    _check_source_lengths(inputs, manifest)
    for name in OPTIONS.keys() - manifest.supported_options:
        if (inputs[name] != OPTIONS[name].neutral).any():
            raise BackendFailed(f"{name} is not supported")
    rows = range(len(inputs["source_ids"]))
    sources = [_source(inputs, row, manifest) for row in rows]
    hypotheses = [list(_hypotheses(sources[row], inputs, row, manifest)) for row in rows]
    width = max(len(ids) for row in hypotheses for ids, _ in row)
    shape = len(rows), int(inputs["num_hypotheses"].max())  # [B, K]
    outputs: dict[str, NDArray[Any]] = {
        "ids": np.full((*shape, width), manifest.special_ids.pad, np.int32),
        "lengths": np.zeros(shape, np.int32),
        "finish_reasons": np.full(shape, FinishReason.NONE, np.int32),
        "scores": np.full(shape, -np.inf, np.float32),
        "normalized_scores": np.full(shape, -np.inf, np.float32),
        "token_log_probs": np.zeros((*shape, width), np.float32),
        "source_lengths": inputs["source_lengths"],
    }
    for row, of_row in enumerate(hypotheses):
        first, penalty = int(inputs["prefix_lengths"][row]), inputs["length_penalty"][row].item()
        scored = []
        for ids, reason in of_row:
            log_probs = sources[row].log_probs(ids, first)
            scored.append((sum(log_probs) / len(ids) ** penalty, sum(log_probs), ids, reason, log_probs))
        scored.sort(key=lambda each: -each[0])
        for place, (normalized_score, score, ids, reason, log_probs) in enumerate(scored):
            outputs["ids"][row, place, : len(ids)] = ids
            outputs["token_log_probs"][row, place, : len(ids)] = log_probs
            outputs["lengths"][row, place] = len(ids)
            outputs["finish_reasons"][row, place] = reason
            outputs["scores"][row, place] = score
            outputs["normalized_scores"][row, place] = normalized_score
    return outputs


def _score(inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """``score_ids`` of tokens, the targets ending in end of sentence."""
    targets = [[*ids, manifest.special_ids.eos] for ids in _encode(inputs["targets"])]
    target_ids, target_lengths = pad_ids(targets)
    ids = _sources(inputs["texts"], manifest) | {"target_ids": target_ids, "target_lengths": target_lengths}
    return _score_ids(ids, manifest)


def _score_ids(inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
    _check_source_lengths(inputs, manifest)
    lengths = inputs["target_lengths"]
    if lengths.max() > manifest.limits.max_target_tokens:
        raise BackendFailed("a target has more tokens than the model scores")
    log_probs = np.zeros(inputs["target_ids"].shape, np.float32)  # [B, T]
    ranks = np.zeros(inputs["target_ids"].shape, np.int32)  # [B, T]
    for row, length in enumerate(lengths.tolist()):
        source, ids = _source(inputs, row, manifest), inputs["target_ids"][row, :length].tolist()
        log_probs[row, :length] = source.log_probs(ids, 0)
        ranks[row, :length] = source.ranks(ids, 0)
    return {
        "token_log_probs": log_probs,
        "token_ranks": ranks,
        "lengths": lengths,
        "perplexity": np.exp(-log_probs.sum(1) / np.maximum(lengths, 1)).astype(np.float32),
        "source_lengths": inputs["source_lengths"],
    }


def _align(inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """A token looks where it stands in the source, one that does not stand there at all of it alike."""
    sources = _sources(inputs["texts"], manifest)
    outputs = _score(inputs, manifest)
    shape = (*outputs["token_log_probs"].shape, sources["source_ids"].shape[1])  # [B, T, S]
    attention = np.zeros(shape, np.float32)
    for row, ids in enumerate(_encode(inputs["targets"])):
        length = sources["source_lengths"][row]
        source = sources["source_ids"][row, :length]
        for place, token in enumerate([*ids, manifest.special_ids.eos]):
            seen = source == token if token in source else np.ones(length, bool)
            attention[row, place, :length] = seen / seen.sum()
    return outputs | {"attention": attention}


SIGNATURE_RUNS: Final[Mapping[str, Run]] = {
    "generate": _generate,
    "generate_ids": _generate_ids,
    "score": _score,
    "score_ids": _score_ids,
    "align": _align,
    "tokenize": _tokenize,
    "detokenize": _detokenize,
    "describe": _describe,
}
"""What each signature of ``scripted_manifest`` answers."""


class _Source:
    """The tokens of one source, at least one, and how the model likes tokens after it."""

    def __init__(self, ids: Sequence[int], eos: int) -> None:
        self.ids = list(ids)
        self._eos = eos

    def turned(self, places: int) -> list[int]:
        places %= len(self.ids)
        return self.ids[places:] + self.ids[:places]

    def ranks(self, ids: Sequence[int], first: int) -> list[int]:
        """How many tokens are liked better than each of ``ids``, of which the first stands at ``first``."""
        return [self._rank(token, place) for place, token in enumerate(ids, first)]

    def log_probs(self, ids: Sequence[int], first: int) -> list[float]:
        """Multiples of 1/1024, so that float32 holds them, and sums of them, as they are."""
        ranks = self.ranks(ids, first)
        return [-(1 + rank) * (1 / 8 + token % 8 / 1024) for rank, token in zip(ranks, ids, strict=True)]

    def _rank(self, token: int, place: int) -> int:
        if place < len(self.ids) and self.ids[place] == token:
            return 0  # most often
        order = list(dict.fromkeys(self.turned(place)))
        order.insert(0 if place >= len(self.ids) else len(order), self._eos)
        return order.index(token) if token in order else len(order)


def _encode(texts: NDArray[Any]) -> list[list[int]]:
    return _tokenizer().encode([text.decode() for text in texts])


def _sources(texts: NDArray[Any], manifest: Manifest) -> dict[str, NDArray[Any]]:
    framing = manifest.framing
    framed = [[*framing.source_prefix, *ids, *framing.source_suffix] for ids in _encode(texts)]
    source_ids, source_lengths = pad_ids(framed)
    return {"source_ids": source_ids, "source_lengths": source_lengths}


def _check_source_lengths(inputs: Arrays, manifest: Manifest) -> None:
    if inputs["source_lengths"].max() > manifest.limits.max_source_tokens:
        raise BackendFailed("a source has more tokens than the model reads")


def _source(inputs: Arrays, row: int, manifest: Manifest) -> _Source:
    length = inputs["source_lengths"][row] - len(manifest.framing.source_suffix)
    ids = inputs["source_ids"][row, :length].tolist() or [manifest.special_ids.unk]
    return _Source(ids, manifest.special_ids.eos)


def _hypotheses(
    source: _Source, inputs: Arrays, row: int, manifest: Manifest
) -> Iterator[tuple[list[int], FinishReason]]:
    """New tokens and finish reason of each hypothesis of one row."""
    prefix = int(inputs["prefix_lengths"][row])
    shortest = int(inputs["min_new_tokens"][row])
    longest = int(inputs["max_new_tokens"][row]) or manifest.limits.default_max_new_tokens
    for place in range(int(inputs["num_hypotheses"][row])):
        turned = source.turned(_drawn(inputs, row, place) if inputs["do_sample"][row] else place)
        tokens = turned[prefix:]
        while len(tokens) + 1 < shortest:
            tokens.append(turned[len(tokens) % len(turned)])
        tokens.append(manifest.special_ids.eos)
        reason = FinishReason.EOS_TOKEN if len(tokens) <= longest else FinishReason.LENGTH
        yield tokens[:longest], reason


def _drawn(inputs: Arrays, row: int, place: int) -> int:
    """How far a sample is turned."""
    return random.Random(f"{inputs['seed'][row]} {place}").randrange(int(inputs["top_k"][row]) or 2**32)


def _strings(values: Sequence[bytes]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
