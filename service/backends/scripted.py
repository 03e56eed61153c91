"""A fake backend that ships beside the real ones: no model, the answer follows a script.

It keeps every promise of ``Backend``: it has a manifest and a working tokenizer, takes and checks the tensors of
``generate_ids``, honours the options that today's models honour, and runs so many calls at a time as it has slots. By
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
from service.backend import Arrays, ModelVersion, VersionState
from service.backends.signatures import check_inputs
from service.errors import BackendFailed, DeadlineExceeded, ModelNotFound, ServiceError

WORDS: Final = (
    "a echo is it no one said says so that the then to what who word words yes you 말 길 말길 이 가 는 좋다 le mot"
)
"""What the tokenizer is trained on; any other text is spelled in characters and bytes."""

LIMITS: Final = Limits(max_source_tokens=512, max_target_tokens=512, max_beam_size=8, default_max_new_tokens=128)
SPECIAL_IDS: Final = SpecialIds(pad=0, unk=1, bos=2, eos=3)
_SIGNATURES: Final = ("generate_ids", "describe")

Interrupt = Callable[[Arrays], ServiceError | None]


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
            delay_s: how long every run of ``generate_ids`` takes.
            limits: of every model.
            interrupt: sees the inputs of every run of ``generate_ids``; an error that it returns is raised.
        """
        self._slots = slots
        self._delay_s = delay_s
        self._interrupt = interrupt
        self._running = asyncio.Semaphore(slots)
        self._versions: tuple[ModelVersion, ...] = ()
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

    async def predict(
        self, name: str, version: int, signature: str, inputs: Arrays, timeout_s: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """As in ``Backend``, for ``generate_ids`` and ``describe``."""
        found = [each for each in self._versions if (each.name, each.version) == (name, version)]
        if not found:
            raise ModelNotFound(f"there is no version {version} of model {name!r}")
        if signature not in _SIGNATURES:
            raise BackendFailed(f"the scripted backend has no signature {signature!r}")
        check_inputs(signature, SIGNATURES[signature], inputs)
        manifest = found[0].manifest
        assert manifest is not None, "a scripted version is READY"
        if signature == "describe":
            return {"manifest": _strings(manifest.to_json().encode()), "tokenizer": _strings(tiny_tokenizer())}
        try:
            return await asyncio.wait_for(self._generate(inputs, manifest), timeout_s)
        except asyncio.TimeoutError:
            raise DeadlineExceeded(f"no answer within {timeout_s} s") from None

    async def _generate(self, inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
        async with self._running:
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            error = self._interrupt(inputs)
            if error is not None:
                raise error
            return _generate_ids(inputs, manifest)


def _generate_ids(inputs: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
    if len(set(inputs["beam_size"].tolist())) != 1:
        raise BackendFailed("rows of one call have unlike beam sizes")
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


def _strings(value: bytes) -> NDArray[Any]:
    array = np.empty(1, dtype=object)
    array[0] = value
    return array
