"""Generation without a server: a trained model's folder or an artifact, and texts."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import tensorflow as tf

from model_export.artifact.by_ids import by_ids
from model_export.artifact.calls import Answer, Arrays, Row, Signature, generate_inputs, on_arrays, read_answers
from model_export.artifact.machine import check_machine
from model_export.artifact.reloaded import loaded, quick_first_calls
from model_export.artifact.serving_module import ServingModule
from model_export.config import UserError
from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET, OPTIONS, TOKENIZER_ASSET, Limits, Manifest
from model_export.text.progress import OnProgress, silent
from model_export.text.tokenizers import SentencePieceTokenizer
from model_export.trained_model import load_trained_model

_SHOWN = 40  # characters of a refused text: enough to find it


class GenerationError(UserError):
    """A text or an option that the model refuses."""


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """The signatures that take texts."""

    generate: Signature
    score: Signature


@contextmanager
def opened(model: Path) -> Iterator[OpenedModel]:
    """While entered, an artifact, or a trained model as an export would write it.

    Raises:
        TrainedModelError: the folder is neither.
        MachineError: this machine has no kernel for the artifact.
        GenerationError: by its ``score``, which the artifact does not have.
    """
    if (model / ASSETS_FOLDER / MANIFEST_ASSET).is_file():
        manifest = Manifest.from_json((model / ASSETS_FOLDER / MANIFEST_ASSET).read_bytes())
        check_machine(manifest.dtype, manifest.cpu_features)
        with quick_first_calls(), loaded(model) as signatures:
            yield _opened_artifact(model, manifest, signatures)
        return
    trained = load_trained_model(model)
    with tempfile.TemporaryDirectory() as assets:
        for name in (MANIFEST_ASSET, TOKENIZER_ASSET):
            (Path(assets) / name).write_bytes(trained.tokenizer if name == TOKENIZER_ASSET else b"")
        module = ServingModule(
            trained.model,
            trained.model.pack(),
            SentencePieceTokenizer(trained.tokenizer),
            Limits(**trained.config.limits.model_dump()),
            Path(assets),
        )
        yield OpenedModel(**{name: _traced_when_called(module, name) for name in ("generate", "score")})


def _opened_artifact(artifact: Path, manifest: Manifest, signatures: Mapping[str, Signature]) -> OpenedModel:
    found = dict(signatures)
    if "generate" not in found:
        found |= by_ids(found, manifest, (artifact / ASSETS_FOLDER / TOKENIZER_ASSET).read_bytes())

    def no_score(inputs: Arrays) -> Arrays:
        raise GenerationError(f"{artifact} cannot score, as it was exported by an earlier version: export it anew")

    return OpenedModel(found["generate"], found.get("score", no_score))


def _traced_when_called(module: ServingModule, name: str) -> Signature:
    def signature(inputs: Arrays) -> Arrays:
        return on_arrays(module.functions[name])(inputs)

    return signature


def generate(
    signature: Signature,
    texts: Sequence[str],
    options: Mapping[str, bool | int | float],
    on_progress: OnProgress = silent,
    batch_size: int = 32,
) -> Iterator[Answer]:
    """The answers in the order of the texts, computed ``batch_size`` at a time.

    The seed is that of the first text, and greater by 1 for each next one, as in a request to a server.

    Raises:
        GenerationError: a text is not UTF-8, or the model refuses it or an option; the message tells which, from 1.
    """
    for number, text in enumerate(texts, start=1):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise GenerationError(f"text {number} is not UTF-8: {text[:_SHOWN]!r}")
    for first in range(0, len(texts), batch_size):
        on_progress("generating", first, len(texts))
        rows = seeded_rows(texts[first : first + batch_size], options, first)
        try:
            answers = _answers(signature, rows)
        except GenerationError:
            _name_refused(signature, rows, first)
            raise
        yield from answers


def seeded_rows(texts: Sequence[str], options: Mapping[str, bool | int | float], before: int = 0) -> list[Row]:
    """A row for each text, with a seed of its own where it is to be sampled; ``before`` texts came before them."""
    if not options.get("do_sample"):
        return [Row(text, (), options) for text in texts]
    seed = options.get("seed", OPTIONS["seed"].neutral) + before
    return [Row(text, (), {**options, "seed": seed + place}) for place, text in enumerate(texts)]


@contextmanager
def told_refusals() -> Iterator[None]:
    """While entered, what the graph asserts of its inputs fails as a GenerationError."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        refusal = re.search(r"assertion failed: \[(.*?)\]", str(error))
        if refusal is None:
            raise
        raise GenerationError(refusal[1].rstrip(":")) from error


def _answers(signature: Signature, rows: Sequence[Row]) -> list[Answer]:
    with told_refusals():
        outputs = signature(generate_inputs(rows))
    return read_answers(outputs, rows)


def _name_refused(signature: Signature, rows: Sequence[Row], before: int) -> None:
    """Raise for the first of the rows that is refused by itself; ``before`` texts came before them."""
    _answers(signature, [replace(rows[0], text="")])  # no text is at fault where even none is refused
    for number, row in enumerate(rows, start=before + 1):
        try:
            _answers(signature, [row])
        except GenerationError as error:
            text = row.text if len(row.text) <= _SHOWN else f"{row.text[:_SHOWN]}…"
            raise GenerationError(f"text {number}, {text!r}: {error}") from error
