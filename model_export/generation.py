"""Generation without a server: a trained model's folder or an artifact, and texts."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from model_export.artifact.calls import Answer, Row, Signature, generate_inputs, on_arrays, read_answers
from model_export.artifact.reloaded import loaded
from model_export.artifact.serving_module import ServingModule
from model_export.config import UserError
from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET, TOKENIZER_ASSET, Limits
from model_export.text.tokenizers import SentencePieceTokenizer
from model_export.trained_model import load_trained_model


class GenerationError(UserError):
    """A text or an option that the model refuses."""


@contextmanager
def opened(model: Path) -> Iterator[Signature]:
    """The signature ``generate`` of an artifact, or of a trained model as an export would write it.

    Raises:
        TrainedModelError: the folder is neither.
    """
    if (model / ASSETS_FOLDER / MANIFEST_ASSET).is_file():
        with loaded(model) as signatures:
            yield signatures["generate"]
        return
    trained = load_trained_model(model)
    with tempfile.TemporaryDirectory() as assets:
        for name in (MANIFEST_ASSET, TOKENIZER_ASSET):
            (Path(assets) / name).write_bytes(trained.tokenizer if name == TOKENIZER_ASSET else b"")
        module = ServingModule(
            trained.model.decoder_step(),
            [weight.value for weight in trained.model.weights],
            SentencePieceTokenizer(trained.tokenizer),
            Limits(**trained.config.limits.model_dump()),
            Path(assets),
        )
        yield on_arrays(module.functions["generate"])


def generate(
    signature: Signature, texts: Sequence[str], options: Mapping[str, bool | int | float], batch_size: int = 32
) -> Iterator[Answer]:
    """The answers in the order of the texts, computed ``batch_size`` at a time.

    Raises:
        GenerationError: the model refuses a text or an option.
    """
    for first in range(0, len(texts), batch_size):
        rows = [Row(text, (), options) for text in texts[first : first + batch_size]]
        try:
            outputs = signature(generate_inputs(rows))
        except tf.errors.InvalidArgumentError as error:
            refusal = re.search(r"assertion failed: \[(.*?)\]", str(error))
            if refusal is None:
                raise
            raise GenerationError(refusal[1].rstrip(":")) from error
        yield from read_answers(outputs, rows)
