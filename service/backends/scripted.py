"""A fake backend that ships beside the real ones: no model, the answer follows a script.

It keeps every promise of ``Backend``: it has a manifest and a working tokenizer, takes and checks the tensors of
its signatures, honours the options that today's models honour, and runs so many calls at a time as it has slots. By
default it echoes the source, so that tests of clients, transports and batching know what to expect:

    hypothesis k of a row = the source tokens turned left by k places, then end of sentence

A forced prefix takes the place of the first tokens; ``min_new_tokens`` is met by repeating the tokens from their start;
``max_new_tokens`` cuts. Every answer depends on its own row alone.
"""

from __future__ import annotations

import asyncio
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from model_export.contract import (
    OPTIONS,
    SIGNATURES,
    SUPPORTED_OPTIONS,
    FinishReason,
    Framing,
    Limits,
    Manifest,
    SpecialIds,
    TokenizerInfo,
    sha256,
)
from service.backend import Arrays, ModelVersion, VersionState, pad_ids
from service.backends.signatures import check_inputs
from service.errors import BackendFailed, DeadlineExceeded, ModelNotFound, ServiceError
from service.tokenization import SentencePieceTokenizer

WORDS: Final = (
    "a echo is it no one said says so that the then to what who word words yes you 말 길 말길 이 가 는 좋다 le mot"
)
"""What the tokenizer is trained on; any other text is spelled in characters and bytes."""

LIMITS: Final = Limits(max_source_tokens=512, max_target_tokens=512, max_beam_size=8, default_max_new_tokens=128)
SPECIAL_IDS: Final = SpecialIds(pad=0, unk=1, bos=2, eos=3)
_SIGNATURES: Final = ("generate", "generate_ids", "tokenize", "detokenize", "describe")

Interrupt = Callable[[Arrays], ServiceError | None]
Run = Callable[[Arrays, Manifest], dict[str, NDArray[Any]]]


@functools.cache
def tiny_tokenizer() -> bytes:
    """A SentencePiece model of a few words, with byte fallback; trained in some 30 ms."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(WORDS.split()),
        model_writer=model,
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="nfkc",
        pad_id=SPECIAL_IDS.pad,
        unk_id=SPECIAL_IDS.unk,
        bos_id=SPECIAL_IDS.bos,
        eos_id=SPECIAL_IDS.eos,
        minloglevel=2,
    )
    return model.getvalue()


def scripted_manifest(name: str, limits: Limits = LIMITS) -> Manifest:
    """What an artifact that behaves like the script would say of itself."""
    tokenizer = tiny_tokenizer()
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
    return Manifest(
        model_name=name,
        architecture="scripted",
        parameter_count=0,
        special_ids=SPECIAL_IDS,
        framing=Framing(source_prefix=(), source_suffix=(SPECIAL_IDS.eos,), decoder_start=(SPECIAL_IDS.bos,)),
        limits=limits,
        tokenizer=TokenizerInfo("sentencepiece", sha256(tokenizer), processor.GetPieceSize(), byte_fallback=True),
        supported_options=SUPPORTED_OPTIONS,
        dtype="float32",
        required_ops=(),
        signatures={signature: SIGNATURES[signature] for signature in _SIGNATURES},
    )


class ScriptedBackend:
    """A ``Backend`` whose models echo."""

    def __init__(
        self,
        models: Mapping[str, Sequence[int]] | None = None,
        *,
        slots: int = 2,
        delay_s: float = 0.0,
        limits: Limits = LIMITS,
        interrupt: Interrupt = lambda inputs: None,
    ) -> None:
        """
        Args:
            models: versions of each model name; by default version 1 of ``echo``.
            slots: runs at the same time.
            delay_s: how long every run of ``generate`` and ``generate_ids`` takes.
            limits: of every model.
            interrupt: sees the inputs of every such run; an error that it returns is raised.
        """
        self._slots = slots
        self._delay_s = delay_s
        self._interrupt = interrupt
        self._running = asyncio.Semaphore(slots)
        self._versions: tuple[ModelVersion, ...] = ()
        self._listeners: list[Callable[[], None]] = []
        self._found = tuple(
            ModelVersion(name, version, VersionState.READY, None, scripted_manifest(name, limits), tiny_tokenizer())
            for name, versions in sorted((models or {"echo": (1,)}).items())
            for version in sorted(versions, reverse=True)
        )

    @property
    def slots(self) -> int:
        """As in ``Backend``."""
        return self._slots

    async def start(self) -> None:
        """As in ``Backend``."""
        self._versions = self._found

    async def close(self) -> None:
        """As in ``Backend``."""
        for _ in range(self._slots):
            await self._running.acquire()
        self._versions = ()

    def versions(self) -> Sequence[ModelVersion]:
        """As in ``Backend``."""
        return self._versions

    def subscribe(self, listener: Callable[[], None]) -> None:
        """As in ``Backend``."""
        self._listeners.append(listener)

    def keep(self, versions: Mapping[str, frozenset[int]]) -> None:
        """As in ``Backend``: every version is there from the start."""

    def set_versions(self, versions: Sequence[ModelVersion]) -> None:
        """Let these be what there is from now on: a version appears, is refused, or goes."""
        self._versions = tuple(sorted(versions, key=lambda each: (each.name, -each.version)))
        for listener in self._listeners:
            listener()

    async def predict(
        self, name: str, version: int, signature: str, inputs: Arrays, timeout_s: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """As in ``Backend``, for the signatures of ``scripted_manifest``."""
        wanted = (name, version, VersionState.READY)
        found = [each for each in self._versions if (each.name, each.version, each.state) == wanted]
        if not found:
            raise ModelNotFound(f"there is no version {version} of model {name!r}")
        manifest = found[0].manifest
        assert manifest is not None, "a scripted version is READY"
        if signature not in manifest.signatures:
            raise BackendFailed(f"version {version} of model {name!r} has no signature {signature!r}")
        check_inputs(signature, SIGNATURES[signature], inputs)
        if signature == "describe":
            tokenizer = _strings([tiny_tokenizer()])
            return {"manifest": _strings([manifest.to_json().encode()]), "tokenizer": tokenizer}
        if signature == "tokenize":
            return _tokenize(inputs)
        if signature == "detokenize":
            return _detokenize(inputs)
        run = _generate if signature == "generate" else _generate_ids
        try:
            return await asyncio.wait_for(self._run(run, inputs, manifest), timeout_s)
        except asyncio.TimeoutError:
            raise DeadlineExceeded(f"no answer within {timeout_s} s") from None

    async def _run(self, run: Run, inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
        async with self._running:
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            error = self._interrupt(inputs)
            if error is not None:
                raise error
            return run(inputs, manifest)


@functools.cache
def _tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(tiny_tokenizer())


def _tokenize(inputs: Arrays) -> dict[str, NDArray[Any]]:
    sequences = _tokenizer().encode([text.decode() for text in inputs["texts"]])
    ids, lengths = pad_ids(sequences)
    pieces = np.full(ids.shape, b"", dtype=object)
    for row, sequence in enumerate(sequences):
        pieces[row, : len(sequence)] = [piece.encode() for piece in _tokenizer().pieces(sequence)]
    return {"ids": ids, "lengths": lengths, "pieces": pieces}


def _detokenize(inputs: Arrays) -> dict[str, NDArray[Any]]:
    rows = zip(inputs["ids"].tolist(), inputs["lengths"].tolist(), strict=True)
    texts = _tokenizer().decode([ids[:length] for ids, length in rows])
    return {"sentences": _strings([text.encode() for text in texts])}


def _generate(inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """``generate_ids`` between ``tokenize`` and ``detokenize``."""
    options = {name: array for name, array in inputs.items() if name != "texts"}
    framing = manifest.framing
    sources = [
        [*framing.source_prefix, *ids, *framing.source_suffix]
        for ids in _tokenizer().encode([text.decode() for text in inputs["texts"]])
    ]
    source_ids, source_lengths = pad_ids(sources)
    outputs = _generate_ids({"source_ids": source_ids, "source_lengths": source_lengths, **options}, manifest)
    outputs["sentences"] = np.full(outputs["lengths"].shape, b"", dtype=object)
    for row, place in zip(*np.nonzero(outputs["finish_reasons"]), strict=True):
        prefix = inputs["prefix_ids"][row, : inputs["prefix_lengths"][row]].tolist()
        ended = outputs["finish_reasons"][row, place] == FinishReason.EOS_TOKEN
        new = outputs["ids"][row, place, : outputs["lengths"][row, place] - ended].tolist()
        outputs["sentences"][row, place] = _tokenizer().decode([prefix + new])[0].encode()
    return outputs


def _generate_ids(inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
    if len(set(inputs["beam_size"].tolist())) != 1:
        raise BackendFailed("rows of one call have unlike beam sizes")
    if inputs["source_lengths"].max() > manifest.limits.max_source_tokens:
        raise BackendFailed("a source has more tokens than the model reads")
    for name in OPTIONS.keys() - manifest.supported_options:
        if (inputs[name] != OPTIONS[name].neutral).any():
            raise BackendFailed(f"{name} is not supported")
    rows = len(inputs["source_ids"])
    hypotheses = [_hypotheses(inputs, row, manifest) for row in range(rows)]
    width = max(len(ids) for row in hypotheses for ids, _ in row)
    shape = rows, int(inputs["num_hypotheses"].max())  # [B, K]
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
        for place, (ids, reason) in enumerate(of_row):
            # The k-th hypothesis is k times as unlikely as the best, so that the order is the ranking.
            log_probs = -(place + 1) * (0.125 + np.asarray(ids) % 8 / 64)
            outputs["ids"][row, place, : len(ids)] = ids
            outputs["token_log_probs"][row, place, : len(ids)] = log_probs
            outputs["lengths"][row, place] = len(ids)
            outputs["finish_reasons"][row, place] = reason
            outputs["scores"][row, place] = log_probs.sum()
            outputs["normalized_scores"][row, place] = (
                log_probs.sum() / len(ids) ** inputs["length_penalty"][row].item()
            )
    return outputs


def _hypotheses(inputs: Arrays, row: int, manifest: Manifest) -> list[tuple[list[int], FinishReason]]:
    """New tokens and finish reason of each hypothesis of one row."""
    suffix = len(manifest.framing.source_suffix)
    source = inputs["source_ids"][row, : inputs["source_lengths"][row] - suffix].tolist() or [manifest.special_ids.unk]
    prefix = int(inputs["prefix_lengths"][row])
    shortest = int(inputs["min_new_tokens"][row])
    longest = int(inputs["max_new_tokens"][row]) or manifest.limits.default_max_new_tokens
    answers = []
    for place in range(int(inputs["num_hypotheses"][row])):
        turn = place % len(source)
        turned = source[turn:] + source[:turn]
        tokens = turned[prefix:]
        while len(tokens) + 1 < shortest:
            tokens.append(turned[len(tokens) % len(turned)])
        tokens.append(manifest.special_ids.eos)
        reason = FinishReason.EOS_TOKEN if len(tokens) <= longest else FinishReason.LENGTH
        answers.append((tokens[:longest], reason))
    return answers


def _strings(values: Sequence[bytes]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
