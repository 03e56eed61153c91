"""Judging a model on held-out pairs: loss and accuracy by Keras, BLEU and chrF of what greedy search writes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from model_export.config import LimitsConfig
from model_export.decoding import DecodingOptions, TokenIds, greedy_search
from model_export.models import Seq2SeqModel
from model_export.text.data import make_dataset, plan_batches
from model_export.text.metrics import corpus_scores
from model_export.text.progress import OnProgress, silent
from model_export.text.tokenizers import BOS_ID, EOS_ID, PAD_ID, UNK_ID, SentencePieceTokenizer
from model_export.training.callbacks import TellBatches
from model_export.training.corpus import Corpus
from model_export.training.model import TrainingModel


class Evaluator:
    """Judges a model on one set of pairs. Identical sources are decoded once, against all their targets."""

    def __init__(
        self,
        training: TrainingModel,
        tokenizer: SentencePieceTokenizer,
        limits: LimitsConfig,
        corpus: Corpus,
        batch_tokens: int,
    ) -> None:
        encoded = corpus.encoded
        self._training = training
        batches = plan_batches(encoded, batch_tokens, order=None)
        self._dataset, self._batches = make_dataset(encoded, batches), len(batches)
        self._encoded = encoded
        self._batch_tokens = batch_tokens
        self._references: dict[str, list[str]] = {}
        self._row_of: list[int] = []  # of each different source, its first row in ``encoded``
        for row, pair in enumerate(encoded.rows):
            source = corpus.pairs.sources[pair]
            if source not in self._references:
                self._row_of.append(row)
            self._references.setdefault(source, []).append(corpus.pairs.targets[pair])
        self._decode = _greedy_decoder(training.model, tokenizer, limits.default_max_new_tokens)

    def losses(self, on_progress: OnProgress = silent) -> dict[str, float]:
        """``loss`` (nats per token, no label smoothing), ``perplexity`` and ``accuracy``, over all target tokens."""
        telling = TellBatches(on_progress, "losses of the validation pairs", self._batches)
        logs = self._training.evaluate(self._dataset, verbose=0, return_dict=True, callbacks=[telling])
        return {"loss": logs["loss"], "perplexity": math.exp(logs["loss"]), "accuracy": logs["accuracy"]}

    def translate(self, on_progress: OnProgress = silent) -> dict[str, str]:
        """What greedy search writes for each different source."""
        rows = np.asarray(self._row_of)
        by_length = rows[np.argsort(self._encoded.source_lengths[rows], kind="stable")]
        written: dict[int, str] = {}
        size = max(1, self._batch_tokens // int(self._encoded.source_lengths.max()))
        for first in range(0, len(by_length), size):
            on_progress("answers to the validation sources", first, len(by_length))
            chosen = by_length[first : first + size]
            source_ids = tf.gather(self._encoded.source_ids, chosen)
            sentences = self._decode(source_ids.to_tensor(), tf.cast(source_ids.row_lengths(), tf.int32)).numpy()
            written.update(zip(chosen.tolist(), (sentence.decode("utf-8") for sentence in sentences), strict=True))
        return {source: written[row] for source, row in zip(self._references, self._row_of, strict=True)}

    def scores(self, written: Mapping[str, str], on_progress: OnProgress = silent) -> dict[str, float]:
        """``bleu`` and ``chrf`` of ``written``, which has an answer to each different source."""
        on_progress("BLEU and chrF", 0, 0)
        return corpus_scores([written[source] for source in self._references], list(self._references.values()))


def _greedy_decoder(
    model: Seq2SeqModel, tokenizer: SentencePieceTokenizer, max_new_tokens: int
) -> tf.types.experimental.PolymorphicFunction:
    """A graph from source ids int32 [B, S] and lengths [B] to sentences, string [B]."""
    tokens = TokenIds(
        BOS_ID, EOS_ID, PAD_ID, suppressed=(PAD_ID, BOS_ID, *((UNK_ID,) if tokenizer.byte_fallback else ()))
    )

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)])
    def decode(source_ids: tf.Tensor, source_lengths: tf.Tensor) -> tf.Tensor:
        options = DecodingOptions.neutral(max_new_tokens=tf.fill(tf.shape(source_lengths), max_new_tokens))
        found = greedy_search(model.decoder_step(), source_ids, source_lengths, options, tokens)
        return tokenizer.detokenize(tf.RaggedTensor.from_tensor(found.ids[:, 0], lengths=found.lengths[:, 0]))

    return decode
