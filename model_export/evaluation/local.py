"""Models in this process: artifacts and trained models' folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sentencepiece

from model_export.artifact.calls import Signature, generate_inputs, read_answers, text_array
from model_export.config import CONFIG_FILE, load_config
from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET, TOKENIZER_ASSET, Limits, Manifest
from model_export.evaluation.subject import EvaluationError, Options, Scored, Written
from model_export.generation import GenerationError, opened, seeded_rows, told_refusals
from model_export.trained_model import TOKENIZER_FILE


class LocalSubject:
    """A ``Subject`` by the signatures of an opened model."""

    def __init__(self, title: str, limits: Limits, tokenizer: bytes, generate: Signature, score: Signature) -> None:
        self.title = title
        self.limits = limits
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
        self._generate = generate
        self._score = score

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts))

    def detokenize(self, ids: Sequence[int]) -> str:
        return self._processor.decode(list(ids))

    def generate(self, texts: Sequence[str], options: Options) -> list[Written]:
        rows = seeded_rows(texts, options)
        with self._named_refusal():
            answers = read_answers(self._generate(generate_inputs(rows)), rows)
        return [Written(answer.sentences[0], len(answer.ids[0])) for answer in answers]

    def score(self, texts: Sequence[str], targets: Sequence[str]) -> list[Scored]:
        with self._named_refusal():
            outputs = self._score({"texts": text_array(texts), "targets": text_array(targets)})
        return [
            Scored(log_probs[:length], ranks[:length], int(source_tokens))
            for log_probs, ranks, length, source_tokens in zip(
                outputs["token_log_probs"],
                outputs["token_ranks"],
                outputs["lengths"],
                outputs["source_lengths"],
                strict=True,
            )
        ]

    @contextmanager
    def _named_refusal(self) -> Iterator[None]:
        """While entered, what the graph refuses is an error that names the model: there may be two."""
        try:
            with told_refusals():
                yield
        except GenerationError as error:
            raise EvaluationError(f"{self.title}: {error}") from error


@contextmanager
def local_subject(path: Path, title: str) -> Iterator[LocalSubject]:
    """While entered, the model of an artifact or of a trained model's folder, ready to be asked.

    Raises:
        UserError: the folder is neither, or what is in it cannot be read.
    """
    limits, tokenizer = _described(path)
    with opened(path) as model:
        yield LocalSubject(title, limits, tokenizer, model.generate, model.score)


def _described(path: Path) -> tuple[Limits, bytes]:
    if (path / ASSETS_FOLDER / MANIFEST_ASSET).is_file():
        manifest = Manifest.from_json((path / ASSETS_FOLDER / MANIFEST_ASSET).read_bytes())
        return manifest.limits, (path / ASSETS_FOLDER / TOKENIZER_ASSET).read_bytes()
    config = load_config(str(path / CONFIG_FILE))
    return Limits(**config.limits.model_dump()), (path / TOKENIZER_FILE).read_bytes()
