"""The replay of a parity certificate: every golden case asked again, every difference told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from model_export.artifact.calls import (
    Arrays,
    Row,
    Signature,
    generate_ids_inputs,
    generate_inputs,
    padded,
    read_answers,
    score_ids_inputs,
    text_array,
)
from model_export.contract import Certificate, FinishReason, Framing, GoldenCase, Manifest


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where an artifact is not what it should be."""

    where: str  # "files", or the runtime: "saved_model.load", "session"
    signature: str  # empty for files
    case: str  # the golden case, or the file
    field: str
    expected: str
    got: str

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.where, self.signature, self.case, self.field) if part)
        return f"{place}: expected {self.expected}, got {self.got}"


@dataclass
class Comparison:
    """Collects what differs, and how much was compared."""

    where: str
    differences: list[Difference] = field(default_factory=list)
    checks: int = 0

    def equal(self, signature: str, case: str, name: str, expected: Any, got: Any) -> None:
        """Expect exactly this."""
        self._add(expected == got, signature, case, name, expected, got)

    def close(self, signature: str, case: str, name: str, expected: float, got: float, tolerance: float) -> None:
        """Expect a number within ``tolerance``."""
        self._add(abs(expected - got) <= tolerance, signature, case, name, expected, got)

    def call(self, signatures: Mapping[str, Signature], name: str, inputs: Arrays, case: str = "") -> Arrays | None:
        """The signature's outputs; ``None``, and a difference, when it fails."""
        try:
            outputs = signatures[name](inputs)
        except (KeyError, ValueError, TypeError, tf.errors.OpError) as error:
            self._add(False, name, case, "call", "an answer", _first_lines(error))
            return None
        self.checks += 1
        return outputs

    def _add(self, is_same: bool, signature: str, case: str, name: str, expected: Any, got: Any) -> None:
        self.checks += 1
        if not is_same:
            self.differences.append(Difference(self.where, signature, case, name, str(expected), str(got)))


def replay_certificate(signatures: Mapping[str, Signature], manifest: Manifest, comparison: Comparison) -> None:
    """Ask every case of the manifest again through every signature that it promises and that can answer it."""
    certificate = manifest.certificate
    assert certificate is not None, "there is something to replay"
    for cases in _by_beam_size(certificate.cases):
        for name in ("generate", "generate_ids"):
            if name in manifest.signatures:
                _replay_generate(signatures, name, cases, certificate.score_tolerance, comparison)
    if "tokenize" in manifest.signatures:
        _replay_tokenize(signatures, certificate.cases, manifest.framing, comparison)
        _replay_detokenize(signatures, certificate.cases, comparison)
        _replay_texts_only(signatures, certificate, comparison)
    if "score_ids" in manifest.signatures:
        _replay_scores_of_ids(signatures, certificate, comparison)
    if "score" in manifest.signatures:
        _replay_scores_of_texts(signatures, certificate, manifest.special_ids.eos, comparison)


def _by_beam_size(cases: Sequence[GoldenCase]) -> list[list[GoldenCase]]:
    groups: dict[int, list[GoldenCase]] = {}
    for case in cases:
        groups.setdefault(int(Row.of_case(case).option("beam_size")), []).append(case)
    return list(groups.values())


def _replay_generate(
    signatures: Mapping[str, Signature],
    name: str,
    cases: Sequence[GoldenCase],
    tolerance: float,
    comparison: Comparison,
) -> None:
    rows = [Row.of_case(case) for case in cases]
    inputs = generate_inputs(rows) if name == "generate" else generate_ids_inputs(rows)
    outputs = comparison.call(signatures, name, inputs)
    if outputs is None:
        return
    for case, answer in zip(cases, read_answers(outputs, rows), strict=True):
        comparison.equal(name, case.name, "ids", case.ids, answer.ids)
        comparison.equal(name, case.name, "finish_reasons", case.finish_reasons, answer.finish_reasons)
        if name == "generate":
            comparison.equal(name, case.name, "sentences", case.sentences, answer.sentences)
        for place, (expected, got) in enumerate(zip(case.scores, answer.scores, strict=False)):
            comparison.close(name, case.name, f"scores[{place}]", expected, got, tolerance)


def _replay_tokenize(
    signatures: Mapping[str, Signature], cases: Sequence[GoldenCase], framing: Framing, comparison: Comparison
) -> None:
    outputs = comparison.call(signatures, "tokenize", {"texts": text_array([case.text for case in cases])})
    if outputs is None:
        return
    for case, ids, length in zip(cases, outputs["ids"], outputs["lengths"], strict=True):
        framed = (*framing.source_prefix, *ids[:length].tolist(), *framing.source_suffix)
        comparison.equal("tokenize", case.name, "ids", case.source_ids, framed)


def _replay_detokenize(
    signatures: Mapping[str, Signature], cases: Sequence[GoldenCase], comparison: Comparison
) -> None:
    """Prefix and answer without EOS give the sentence."""
    targets = []
    for case in cases:
        ends = case.finish_reasons[0] == FinishReason.EOS_TOKEN
        targets.append((*case.prefix_ids, *(case.ids[0][:-1] if ends else case.ids[0])))
    ids, lengths = padded(targets)
    outputs = comparison.call(signatures, "detokenize", {"ids": ids, "lengths": lengths})
    if outputs is None:
        return
    for case, sentence in zip(cases, outputs["sentences"], strict=True):
        comparison.equal("detokenize", case.name, "sentences", case.sentences[0], sentence.decode("utf-8"))


def _replay_texts_only(signatures: Mapping[str, Signature], certificate: Certificate, comparison: Comparison) -> None:
    """``serving_default`` and ``beam_search`` take no options: they answer the cases that set none."""
    for case in certificate.cases:
        options = dict(case.options)
        inputs: dict[str, Any] = {"texts": text_array([case.text])}
        if case.prefix_ids:
            continue
        if not options:
            name = "serving_default"
        elif options.keys() == {"beam_size", "num_hypotheses"} and len(set(options.values())) == 1:
            name = "beam_search"
            inputs["beam_size"] = np.array(options["beam_size"], np.int32)
        else:
            continue
        outputs = comparison.call(signatures, name, inputs, case.name)
        if outputs is None:
            continue
        sentences = [sentence.decode("utf-8") for sentence in outputs["sentences"].reshape(-1)]
        comparison.equal(name, case.name, "sentences", list(case.sentences), sentences)
        for place, (score, ids) in enumerate(zip(case.scores, case.ids, strict=True)):
            got = -math.log(outputs["perplexity"].reshape(-1)[place])
            comparison.close(
                name, case.name, f"-log(perplexity[{place}])", score / len(ids), got, certificate.score_tolerance
            )


def _replay_scores_of_ids(
    signatures: Mapping[str, Signature], certificate: Certificate, comparison: Comparison
) -> None:
    """The best answer to every case, given as a target, has the score that the search gave it."""
    targets = [_best_target(case) for case in certificate.cases]
    inputs = score_ids_inputs([case.source_ids for case in certificate.cases], targets)
    _replay_scores(signatures, "score_ids", inputs, certificate.cases, certificate.score_tolerance, comparison)


def _replay_scores_of_texts(
    signatures: Mapping[str, Signature], certificate: Certificate, eos: int, comparison: Comparison
) -> None:
    """So have their texts, where tokenizing a text gives the tokens that the model chose for it."""
    sentences = text_array([case.sentences[0] for case in certificate.cases])
    outputs = comparison.call(signatures, "tokenize", {"texts": sentences})
    if outputs is None:
        return
    tokens = zip(certificate.cases, outputs["ids"], outputs["lengths"], strict=True)
    cases = [case for case, ids, length in tokens if (*ids[:length].tolist(), eos) == _best_target(case)]
    if cases:
        pairs = ("texts", [case.text for case in cases]), ("targets", [case.sentences[0] for case in cases])
        inputs = {name: text_array(texts) for name, texts in pairs}
        _replay_scores(signatures, "score", inputs, cases, certificate.score_tolerance, comparison)


def _replay_scores(
    signatures: Mapping[str, Signature],
    name: str,
    inputs: Arrays,
    cases: Sequence[GoldenCase],
    tolerance: float,
    comparison: Comparison,
) -> None:
    outputs = comparison.call(signatures, name, inputs)
    if outputs is None:
        return
    for case, log_probs in zip(cases, outputs["token_log_probs"], strict=True):
        score = float(log_probs[len(case.prefix_ids) :].sum())
        comparison.close(name, case.name, "scores[0]", case.scores[0], score, tolerance)


def _best_target(case: GoldenCase) -> tuple[int, ...]:
    return (*case.prefix_ids, *case.ids[0])


def _first_lines(error: Exception) -> str:
    """What TensorFlow says before it quotes the graph."""
    lines = [line.strip() for line in str(getattr(error, "message", error)).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Graph execution error", "Detected at node"))]
    return f"{type(error).__name__}: {' '.join(telling[:2])}"
