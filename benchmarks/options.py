"""What each decoding option costs a call that uses it, against a call that does not: greedy and with four beams.

``models/en-fr`` translates its own samples. One graph for each search, as in an artifact; every call decodes exactly as
many tokens, whatever the option; several samples are as many more rows:

    python -m benchmarks.options [--batch 8] [--tokens 24] [--rounds 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from benchmarks.interleaved import measure, report
from model_export.contract import OPTIONS
from model_export.decoding import DecodingOptions, Hypotheses, TokenIds, beam_search, greedy_search
from model_export.decoding.step import DecoderStep
from model_export.text.tokenizers import EOS_ID, PAD_ID, SentencePieceTokenizer
from model_export.trained_model import load_trained_model

MODEL = Path(__file__).parents[1] / "models" / "en-fr"
TOKENS = TokenIds(start=2, eos=EOS_ID, pad=PAD_ID, suppressed=(PAD_ID, 2), unk=1)

PENALTIES: Mapping[str, Mapping[str, float]] = {
    "plain": {},
    "length_penalty": {"length_penalty": 0.5},
    "repetition_penalty": {"repetition_penalty": 1.2},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 3},
    "disable_unk": {"disable_unk": True},
    "all penalties": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "disable_unk": True},
}
SAMPLING: Mapping[str, Mapping[str, float]] = {
    "do_sample": {"do_sample": True},
    "temperature": {"do_sample": True, "temperature": 0.7},
    "top_k 40": {"do_sample": True, "top_k": 40},
    "top_p 0.9": {"do_sample": True, "top_p": 0.9},
    "top_k 40, top_p 0.9": {"do_sample": True, "top_k": 40, "top_p": 0.9},
    "everything": {**PENALTIES["all penalties"], "do_sample": True, "temperature": 0.7, "top_k": 40, "top_p": 0.9},
    "4 samples": {"do_sample": True, "num_hypotheses": 4},
}


def searcher(step: DecoderStep[Any], beam_size: int) -> Callable[[tf.RaggedTensor, DecodingOptions], Hypotheses]:
    """One graph for source ids [B, (S)] and any options [B]."""

    @tf.function(reduce_retracing=True, autograph=False)
    def search(ids: tf.Tensor, lengths: tf.Tensor, beams: tf.Tensor, options: DecodingOptions) -> Hypotheses:
        if beam_size == 1:
            return greedy_search(step, ids, lengths, options, TOKENS)
        return beam_search(step, ids, lengths, beams, options, TOKENS)

    def call(source: tf.RaggedTensor, options: DecodingOptions) -> Hypotheses:
        return search(
            source.to_tensor(PAD_ID), tf.cast(source.row_lengths(), tf.int32), tf.constant(beam_size), options
        )

    return call


def asked(batch: int, tokens: int, values: Mapping[str, float]) -> DecodingOptions:
    """The same options in every row, each row with a seed of its own; no row ends early."""
    rows = {name: tf.fill([batch], tf.constant(value, OPTIONS[name].dtype)) for name, value in values.items()}
    length = tf.fill([batch], tokens)
    return DecodingOptions.neutral(length, min_new_tokens=length, seed=tf.range(batch, dtype=tf.int64), **rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="cores")
    parser.add_argument("--json", type=Path, help="the beam's figures go beside it, as FILE.beam")
    arguments = parser.parse_args()

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    trained = load_trained_model(MODEL)
    trained.model.pack()
    step, tokenizer = trained.model.decoder_step(), SentencePieceTokenizer(trained.tokenizer)
    ids = tokenizer.tokenize(tf.constant(trained.samples[: arguments.batch]))
    source = tf.concat([ids, tf.fill([arguments.batch, 1], EOS_ID)], axis=1)
    for name, beam_size, contenders in (("greedy", 1, {**PENALTIES, **SAMPLING}), ("beam 4", 4, PENALTIES)):
        search = searcher(step, beam_size)
        calls = {
            option: partial(search, source, asked(arguments.batch, arguments.tokens, values))
            for option, values in contenders.items()
        }
        title = f"models/en-fr, batch {arguments.batch}, {arguments.tokens} tokens, {name}"
        path = arguments.json and (arguments.json if beam_size == 1 else Path(f"{arguments.json}.beam"))
        report(title, measure(calls, arguments.rounds), baseline="plain", json_file=path)


if __name__ == "__main__":
    main()
