"""The engines that are compared, behind one call: token ids in, token ids out. Each is imported where it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Ids = list[list[int]]


@dataclass(frozen=True)
class Call:
    """What an engine is asked; answers longer or shorter than the bounds are impossible."""

    sources: Ids
    """Rows with their EOS, of any lengths."""
    beam_size: int
    min_new_tokens: int
    max_new_tokens: int
    max_batch_size: int = 0
    """Rows that an engine with batching of its own may run together; 0: all."""


Engine = Callable[[Call], Ids]
"""The best hypothesis of every row, EOS left out."""


def malgil(folder: str) -> Engine:
    """An artifact's ``generate_ids`` in a TF1 session, as TF Serving and the embedded backend run it."""
    from model_export.artifact.calls import Row, generate_ids_inputs
    from model_export.contract import FinishReason
    from service.backends.saved_model import SavedModel

    model = SavedModel(Path(folder), intra_op_threads=1)

    def call(asked: Call) -> Ids:
        options = {name: getattr(asked, name) for name in ("beam_size", "min_new_tokens", "max_new_tokens")}
        rows = [Row("", tuple(ids), options) for ids in asked.sources]
        outputs: Any = model.run("generate_ids", generate_ids_inputs(rows))
        ended = outputs["finish_reasons"][:, 0] == FinishReason.EOS_TOKEN
        best = zip(outputs["ids"][:, 0], outputs["lengths"][:, 0] - ended, strict=True)
        return [ids[:length].tolist() for ids, length in best]

    return call


def naive(folder: str) -> Engine:
    """The model of a trained model's folder in a loop that re-reads source and prefix for every token."""
    import tensorflow as tf

    from benchmarks.peers.naive import naive_search
    from model_export.trained_model import load_trained_model

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    search = naive_search(load_trained_model(Path(folder)).model)

    def call(asked: Call) -> Ids:
        if asked.min_new_tokens != asked.max_new_tokens or len({len(ids) for ids in asked.sources}) != 1:
            raise ValueError("the naive loop runs rows of one length to one length")
        return search(tf.constant(asked.sources), asked.beam_size, asked.max_new_tokens).numpy().tolist()

    return call


def ctranslate2(folder: str, compute_type: str) -> Engine:
    """A model of ``to_ctranslate2``."""
    import json

    from ctranslate2 import Translator

    translator = Translator(folder, device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=1)
    pieces = json.loads((Path(folder) / "shared_vocabulary.json").read_text(encoding="utf-8"))
    ids_of = {piece: index for index, piece in enumerate(pieces)}

    def call(asked: Call) -> Ids:
        results = translator.translate_batch(
            [[pieces[index] for index in ids] for ids in asked.sources],
            beam_size=asked.beam_size,
            min_decoding_length=asked.min_new_tokens,
            max_decoding_length=asked.max_new_tokens,
            max_batch_size=asked.max_batch_size,
        )
        return [[ids_of[piece] for piece in result.hypotheses[0]] for result in results]

    return call


def hugging_face(folder: str, dtype: str) -> Engine:
    """A model of ``to_hugging_face``; ``int8`` quantises its linear layers dynamically, as PyTorch offers it."""
    import torch

    from benchmarks.peers.to_hugging_face import load_hugging_face

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    model: Any = load_hugging_face(Path(folder))
    if dtype == "int8":
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    special = model.generation_config

    def call(asked: Call) -> Ids:
        longest = max(map(len, asked.sources))
        padded = [ids + [special.pad_token_id] * (longest - len(ids)) for ids in asked.sources]
        mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in asked.sources]
        with torch.inference_mode():
            outputs = model.generate(
                input_ids=torch.tensor(padded),
                attention_mask=torch.tensor(mask),
                num_beams=asked.beam_size,
                do_sample=False,
                min_new_tokens=asked.min_new_tokens,
                max_new_tokens=asked.max_new_tokens,
            )
        ends = (special.eos_token_id, special.pad_token_id)
        return [[index for index in ids if index not in ends] for ids in outputs[:, 1:].tolist()]

    return call
