"""The parity certificate: an artifact proves here that it still answers what the trained model answered at its export.

Replayed through whatever backend runs the artifact, before a version may answer anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_export.contract import OPTIONS, GoldenCase, Manifest, sha256
from service.backend import Arrays, id_inputs, pad_ids
from service.errors import BackendFailed
from service.tokenization import SentencePieceTokenizer, Tokenizer

Predict = Callable[[str, Arrays], Awaitable[Arrays]]
"""Runs the signature of that name."""
MostRows = Callable[[Manifest, int], int]
"""Rows of the largest batch that will come to the model of a manifest, with that beam size."""
WARM_UP_TOKENS: Final = 8
"""New tokens of a warm-up call: enough to run every part of the graph, few enough not to delay the start."""


async def examine(predict: Predict, most_rows: MostRows, uncalled: Collection[str] = ()) -> tuple[Manifest, bytes]:
    """Manifest and tokenizer of the artifact behind ``predict``, once it has kept its word and is warm.

    Args:
        predict: runs it.
        most_rows: of the batches to warm up for, by calls of one row and of so many. Others would gain nothing
            (docs/decisions/0022).
        uncalled: signatures that nobody will call: their first calls, which take seconds, are spared.

    Raises:
        ServiceError: as ``predict`` does. BackendFailed: it fails its certificate.
        ContractError: its manifest cannot be read.
    """
    manifest, tokenizer = await describe(predict)
    differences = await replay(manifest, tokenizer, predict, uncalled)
    if differences:
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise BackendFailed(f"it fails its certificate: {differences[0]}{more}")
    assert manifest.certificate is not None  # else it had differed
    for batch in batches(manifest.certificate.cases):
        for rows in sorted({1, most_rows(manifest, _beam_size(batch[0]))}):
            await predict("generate_ids", _warm_up_inputs(batch[0], rows))
    for name, inputs in _other_first_calls(manifest.certificate.cases[0]).items():
        if name in manifest.signatures and name not in uncalled:
            await predict(name, inputs)
    return manifest, tokenizer


async def describe(predict: Predict) -> tuple[Manifest, bytes]:
    """What the artifact behind ``predict`` says of itself, unproven: its manifest and tokenizer.

    Raises:
        ServiceError: as ``predict`` does. ContractError: its manifest cannot be read.
    """
    described = await predict("describe", {"unused": np.array([b""], dtype=object)})
    return Manifest.from_json(described["manifest"].item()), described["tokenizer"].item()


def _warm_up_inputs(case: GoldenCase, rows: int) -> dict[str, NDArray[Any]]:
    inputs = _inputs("generate_ids", [case] * rows)
    inputs["max_new_tokens"] = np.full_like(inputs["max_new_tokens"], WARM_UP_TOKENS)
    inputs["min_new_tokens"] = np.zeros_like(inputs["min_new_tokens"])
    return inputs


def _other_first_calls(case: GoldenCase) -> dict[str, Arrays]:
    """Of the signatures that no case is asked of."""
    ids, lengths = pad_ids([case.ids[0]])
    return {"align": _score_inputs("score", [case]), "detokenize": {"ids": ids, "lengths": lengths}}


async def replay(
    manifest: Manifest, tokenizer_model: bytes, predict: Predict, uncalled: Collection[str] = ()
) -> list[str]:
    """Ask every golden question again, by ids and by text, and with the gateway's own tokenizer; score the answers.

    Signatures that are ``uncalled`` are not asked.

    Returns:
        What differs, a sentence each; empty when the artifact keeps its word.

    Raises:
        ServiceError: as ``predict`` does.
    """
    if manifest.certificate is None or not manifest.certificate.cases:
        return ["the manifest has no certificate"]
    if sha256(tokenizer_model) != manifest.tokenizer.sha256:
        return ["the tokenizer is not the one that the manifest names: their SHA-256 differ"]
    try:
        tokenizer = SentencePieceTokenizer(tokenizer_model)
    except ValueError as error:
        return [f"the tokenizer cannot be read: {error}"]
    cases = manifest.certificate.cases
    asked = manifest.signatures.keys() - set(uncalled)
    differences = list(_tokenizer_differences(manifest, tokenizer))
    if "tokenize" in asked:
        outputs = await predict("tokenize", {"texts": _texts(cases)})
        differences += _tokenize_differences(manifest, outputs)
    for batch in batches(cases):
        calls = [(name, _inputs(name, batch)) for name in ("generate_ids", "generate") if name in asked]
        # Side by side: most of a first call is the compilation of its graph, on one core.
        answers = await asyncio.gather(*(predict(name, inputs) for name, inputs in calls))
        for (name, _), outputs in zip(calls, answers, strict=True):
            differences += _answer_differences(name, manifest, batch, outputs)
    by_text = [case for case in cases if _is_scored_by_text(case, manifest, tokenizer)]
    scorable = {"score_ids": cases, "score": by_text}
    scored = {name: some for name, some in scorable.items() if some and name in asked}
    answers = await asyncio.gather(*(predict(name, _score_inputs(name, some)) for name, some in scored.items()))
    for (signature, some), outputs in zip(scored.items(), answers, strict=True):
        differences += _score_differences(signature, manifest, some, outputs)
    return differences


def batches(cases: Iterable[GoldenCase]) -> list[list[GoldenCase]]:
    """The cases by beam size: not every graph takes unlike ones in one call."""
    ordered = sorted(cases, key=_beam_size)
    return [list(batch) for _, batch in groupby(ordered, key=_beam_size)]


def option_inputs(cases: Sequence[GoldenCase]) -> dict[str, NDArray[Any]]:
    """The options of the cases as inputs of ``generate`` and ``generate_ids``."""
    inputs: dict[str, NDArray[Any]] = {
        name: np.array([case.options.get(name, option.neutral) for case in cases], dtype=option.dtype)
        for name, option in OPTIONS.items()
    }
    return inputs | id_inputs("prefix", [case.prefix_ids for case in cases])


def _inputs(signature: str, cases: Sequence[GoldenCase]) -> dict[str, NDArray[Any]]:
    options = option_inputs(cases)
    if signature == "generate":
        return {"texts": _texts(cases), **options}
    return {**id_inputs("source", [case.source_ids for case in cases]), **options}


def _score_inputs(signature: str, cases: Sequence[GoldenCase]) -> dict[str, NDArray[Any]]:
    """The best answer to each case as a target."""
    if signature == "score":
        return {"texts": _texts(cases), "targets": np.array([case.sentences[0].encode() for case in cases], object)}
    targets = id_inputs("target", [_best_target(case) for case in cases])
    return id_inputs("source", [case.source_ids for case in cases]) | targets


def _best_target(case: GoldenCase) -> tuple[int, ...]:
    return case.prefix_ids + case.ids[0]


def _is_scored_by_text(case: GoldenCase, manifest: Manifest, tokenizer: Tokenizer) -> bool:
    """Whether tokenizing the best answer gives the tokens that the model chose for it."""
    (ids,) = tokenizer.encode([case.sentences[0]])
    return (*ids, manifest.special_ids.eos) == _best_target(case)


def _beam_size(case: GoldenCase) -> int:
    return int(case.options.get("beam_size", 1))


def _texts(cases: Sequence[GoldenCase]) -> NDArray[Any]:
    return np.array([case.text.encode() for case in cases], dtype=object)


def _unframed(manifest: Manifest, case: GoldenCase) -> tuple[int, ...]:
    start, end = len(manifest.framing.source_prefix), len(manifest.framing.source_suffix)
    return case.source_ids[start : len(case.source_ids) - end]


def _tokenizer_differences(manifest: Manifest, tokenizer: Tokenizer) -> Iterable[str]:
    """The gateway's tokenizer, on the artifact's own model, against the ids and sentences of the cases."""
    assert manifest.certificate is not None
    for case in manifest.certificate.cases:
        ids = tuple(tokenizer.encode([case.text])[0])
        if ids != _unframed(manifest, case):
            yield _differs("the gateway's tokenizer", case, "source ids", _unframed(manifest, case), ids)
        sentences = tuple(tokenizer.decode([case.prefix_ids + ids for ids in case.ids]))
        if sentences != case.sentences:
            yield _differs("the gateway's tokenizer", case, "sentences", case.sentences, sentences)


def _tokenize_differences(manifest: Manifest, outputs: Arrays) -> Iterable[str]:
    assert manifest.certificate is not None
    for case, ids, length in zip(manifest.certificate.cases, outputs["ids"], outputs["lengths"], strict=True):
        found = tuple(ids[:length].tolist())
        if found != _unframed(manifest, case):
            yield _differs("the graph's tokenizer", case, "source ids", _unframed(manifest, case), found)


def _answer_differences(
    signature: str, manifest: Manifest, cases: Sequence[GoldenCase], outputs: Arrays
) -> Iterable[str]:
    """The outputs of one call of ``signature`` against the answers of its cases."""
    assert manifest.certificate is not None
    for row, case in enumerate(cases):
        places = range(len(case.ids))
        if outputs["ids"].shape[1] < len(places):
            yield _differs(signature, case, "hypotheses", len(places), outputs["ids"].shape[1])
            continue
        ids = tuple(tuple(outputs["ids"][row, k, : outputs["lengths"][row, k]].tolist()) for k in places)
        if ids != case.ids:
            yield _differs(signature, case, "ids", case.ids, ids)
            continue
        reasons = tuple(outputs["finish_reasons"][row, : len(places)].tolist())
        if reasons != case.finish_reasons:
            yield _differs(signature, case, "finish reasons", case.finish_reasons, reasons)
        scores = tuple(outputs["scores"][row, : len(places)].tolist())
        if not np.allclose(scores, case.scores, rtol=0.0, atol=manifest.certificate.score_tolerance):
            yield _differs(signature, case, "scores", case.scores, scores)
        if "sentences" in outputs:
            sentences = tuple(text.decode(errors="replace") for text in outputs["sentences"][row, : len(places)])
            if sentences != case.sentences:
                yield _differs(signature, case, "sentences", case.sentences, sentences)


def _score_differences(
    signature: str, manifest: Manifest, cases: Sequence[GoldenCase], outputs: Arrays
) -> Iterable[str]:
    """The outputs for ``_score_inputs`` against the scores that the search gave the same tokens."""
    assert manifest.certificate is not None
    for case, log_probs in zip(cases, outputs["token_log_probs"], strict=True):
        score = float(log_probs[len(case.prefix_ids) :].sum())
        if not np.isclose(score, case.scores[0], rtol=0.0, atol=manifest.certificate.score_tolerance):
            yield _differs(signature, case, "score", case.scores[0], score)


def _differs(where: str, case: GoldenCase, what: str, expected: object, found: object) -> str:
    return f"{where}, case {case.name!r}: {what} {_short(found)} instead of {_short(expected)}"


def _short(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
