"""A trained model as the signatures of ``contract.SIGNATURES``: tokenizer, searches, scoring and checks in one graph.

All signatures that generate share two functions, greedy search and beam search, and those that score share a third;
each checks what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from model_export.artifact.functions import Functions, Tensors
from model_export.artifact.input_checks import check_ids, check_options, check_source_lengths, check_target_lengths
from model_export.contract import (
    MANIFEST_ASSET,
    OPTIONS,
    SIGNATURES,
    TOKENIZER_ASSET,
    FinishReason,
    Framing,
    Limits,
    SignatureSpec,
    SpecialIds,
)
from model_export.decoding import DecodingOptions, TokenIds, beam_search, greedy_search
from model_export.decoding.step import DecoderStep
from model_export.models import Seq2SeqModel
from model_export.models.scoring import score
from model_export.text.tokenizers import BOS_ID, EOS_ID, PAD_ID, UNK_ID, SentencePieceTokenizer

SPECIAL_IDS = SpecialIds(pad=PAD_ID, unk=UNK_ID, bos=BOS_ID, eos=EOS_ID)
FRAMING = Framing(source_prefix=(), source_suffix=(EOS_ID,), decoder_start=(BOS_ID,))


class ServingModule(tf.Module):
    """What is saved: ``functions`` has one concrete function for every signature, traced when it is first asked for.

    They can be called before the save, and are the live model then; inputs and outputs as the contract says.
    """

    def __init__(
        self,
        model: Seq2SeqModel,
        weights: Sequence[tf.Variable],
        tokenizer: SentencePieceTokenizer,
        limits: Limits,
        assets: Path,
        step: DecoderStep[Any] | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            model: it may read no variable that ``weights`` lacks.
            weights: the model's variables, stored once for all signatures.
            tokenizer: saved as part of the graph.
            limits: asserted in the graph.
            assets: a folder with the manifest and the tokenizer model. ``describe`` reads the copies in the artifact
                whenever it is called, so that what is written there after the save is told too.
            step: how searches drive the model, when not by its own ``decoder_step``.
        """
        super().__init__(name="serving")
        self._step = step or model.decoder_step()
        self._score_model = partial(score, model)  # the model itself would be saved with the weights that it was given
        self._weights = list(weights)
        self._tokenizer = tokenizer
        self._limits = limits
        self._manifest = tf.saved_model.Asset(str(assets / MANIFEST_ASSET))
        self._tokenizer_model = tf.saved_model.Asset(str(assets / TOKENIZER_ASSET))
        bodies: dict[str, Callable[..., Tensors]] = {
            "serving_default": self._serving_default,
            "beam_search": self._beam_search,
            "generate": self._generate,
            "generate_ids": self._generate_ids,
            "score": self._score,
            "score_ids": self._score_ids,
            **({"align": self._score} if model.has_attention else {}),
            "tokenize": self._tokenize,
            "detokenize": self._detokenize,
            "describe": self._describe,
        }
        self.functions = Functions({name: (SIGNATURES[name], body) for name, body in bodies.items()})
        search = SIGNATURES["generate_ids"]
        self._searches = Functions({"greedy": (search, self._greedy), "beams": (search, self._beams)})
        outputs = SIGNATURES["align" if model.has_attention else "score"].outputs
        scores = SignatureSpec(SIGNATURES["score_ids"].inputs, outputs)
        self._scoring = Functions({"scores": (scores, self._scores)})

    def without_tokenizer(self) -> tf.Module:
        """What the signatures of ``IDS_ONLY`` need to be saved with: all but the tokenizer's operations."""
        module = tf.Module(name="serving")
        module.weights = self._weights
        module.assets = [self._manifest, self._tokenizer_model]
        return module

    def _serving_default(self, texts: tf.Tensor) -> Tensors:
        outputs = self._from_texts(self._searches["greedy"], texts, _neutral_options(tf.size(texts)))
        return {"sentences": outputs["sentences"][:, 0], "perplexity": _perplexity(outputs)[:, 0]}

    def _beam_search(self, texts: tf.Tensor, beam_size: tf.Tensor) -> Tensors:
        sizes = tf.fill(tf.shape(texts), beam_size)
        options = {**_neutral_options(tf.size(texts)), "beam_size": sizes, "num_hypotheses": sizes}
        outputs = self._from_texts(self._searches["beams"], texts, options)
        return {"sentences": outputs["sentences"], "perplexity": _perplexity(outputs)}

    def _generate(self, texts: tf.Tensor, **options: tf.Tensor) -> Tensors:
        return self._from_texts(self.functions["generate_ids"], texts, options)

    def _from_texts(self, search: Callable[..., Tensors], texts: tf.Tensor, options: Tensors) -> Tensors:
        """The outputs of ``search`` over the texts' tokens, with sentences."""
        source_ids, source_lengths = self._ending_in_eos(texts)
        outputs = search(source_ids=source_ids, source_lengths=source_lengths, **options)
        sentences = self._sentences(outputs, options["prefix_ids"], options["prefix_lengths"])
        return {**outputs, "sentences": sentences}

    def _ending_in_eos(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Tokens of string [B] with EOS after them, int32 [B, T], and how many there are, int32 [B]."""
        end = tf.fill([tf.size(texts), 1], EOS_ID)
        ids = tf.concat([self._tokenizer.tokenize(texts), end], axis=1)
        return ids.to_tensor(PAD_ID), tf.cast(ids.row_lengths(), tf.int32)

    def _generate_ids(self, **inputs: tf.Tensor) -> Tensors:
        return tf.cond(
            tf.reduce_max(inputs["beam_size"]) <= 1,  # what is refused is refused by either
            lambda: self._searches["greedy"](**inputs),
            lambda: self._searches["beams"](**inputs),
        )

    def _greedy(self, source_ids: tf.Tensor, source_lengths: tf.Tensor, **options: tf.Tensor) -> Tensors:
        source_ids, source_lengths = self._checked_source(source_ids, source_lengths)
        options = self._checked_options(options)
        found = greedy_search(self._step, source_ids, source_lengths, _decoding(options), self._token_ids())
        return {**found._asdict(), "source_lengths": source_lengths}

    def _beams(self, source_ids: tf.Tensor, source_lengths: tf.Tensor, **options: tf.Tensor) -> Tensors:
        source_ids, source_lengths = self._checked_source(source_ids, source_lengths)
        options = self._checked_options(options)
        beam_sizes, tokens = options["beam_size"], self._token_ids()
        found = beam_search(self._step, source_ids, source_lengths, beam_sizes, _decoding(options), tokens)
        return {**found._asdict(), "source_lengths": source_lengths}

    def _checked_source(self, ids: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        ids, lengths = check_ids(ids, lengths, self._tokenizer.vocabulary_size, prefix="source_")
        lengths = check_source_lengths(lengths, self._limits)
        return ids[:, : tf.reduce_max(lengths)], lengths  # padding costs nothing, nor exceeds the positions

    def _checked_options(self, options: Tensors) -> Tensors:
        size = self._tokenizer.vocabulary_size
        prefix_ids, prefix_lengths = check_ids(options["prefix_ids"], options["prefix_lengths"], size, prefix="prefix_")
        return check_options({**options, "prefix_ids": prefix_ids, "prefix_lengths": prefix_lengths}, self._limits)

    def _score(self, texts: tf.Tensor, targets: tf.Tensor) -> Tensors:
        source_ids, source_lengths = self._ending_in_eos(texts)
        target_ids, target_lengths = self._ending_in_eos(targets)
        return self._score_ids(
            source_ids=source_ids, source_lengths=source_lengths, target_ids=target_ids, target_lengths=target_lengths
        )

    def _score_ids(self, **inputs: tf.Tensor) -> Tensors:
        return self._scoring["scores"](**inputs)

    def _scores(
        self, source_ids: tf.Tensor, source_lengths: tf.Tensor, target_ids: tf.Tensor, target_lengths: tf.Tensor
    ) -> Tensors:
        source_ids, source_lengths = self._checked_source(source_ids, source_lengths)
        size = self._tokenizer.vocabulary_size
        target_ids, lengths = check_ids(target_ids, target_lengths, size, prefix="target_")
        lengths = check_target_lengths(lengths, self._limits)
        target_ids = target_ids[:, : tf.reduce_max(lengths)]
        found = self._score_model(source_ids, source_lengths, target_ids, lengths, BOS_ID)
        perplexity = tf.exp(-tf.reduce_sum(found.token_log_probs, axis=1) / tf.cast(lengths, tf.float32))
        return {**found._asdict(), "lengths": lengths, "perplexity": perplexity, "source_lengths": source_lengths}

    def _token_ids(self) -> TokenIds:
        """A model that can spell every text by bytes never needs to say "unknown"."""
        unknown = (UNK_ID,) if self._tokenizer.byte_fallback else ()
        return TokenIds(BOS_ID, EOS_ID, PAD_ID, suppressed=(PAD_ID, BOS_ID, *unknown), unk=UNK_ID)

    def _sentences(self, outputs: Tensors, prefix_ids: tf.Tensor, prefix_lengths: tf.Tensor) -> tf.Tensor:
        """Prefix and new tokens as text, string [B, K]; empty where there is no hypothesis."""
        reasons = outputs["finish_reasons"]  # [B, K]
        places = tf.shape(reasons)[1]
        text_lengths = outputs["lengths"] - tf.cast(reasons == FinishReason.EOS_TOKEN, tf.int32)
        new = _ragged(_rows_of_places(outputs["ids"]), tf.reshape(text_lengths, [-1]))
        prefixes = _ragged(tf.repeat(prefix_ids, places, axis=0), tf.repeat(prefix_lengths, places))
        sentences = self._tokenizer.detokenize(tf.concat([prefixes, new], axis=1))  # [B * K]
        return tf.where(reasons == FinishReason.NONE, "", tf.reshape(sentences, tf.shape(reasons)))

    def _tokenize(self, texts: tf.Tensor) -> Tensors:
        ids = self._tokenizer.tokenize(texts)
        pieces = ids.with_flat_values(self._tokenizer.pieces(ids.flat_values))
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        return {"ids": ids.to_tensor(PAD_ID), "lengths": lengths, "pieces": pieces.to_tensor("")}

    def _detokenize(self, ids: tf.Tensor, lengths: tf.Tensor) -> Tensors:
        ids, lengths = check_ids(ids, lengths, self._tokenizer.vocabulary_size)
        return {"sentences": self._tokenizer.detokenize(_ragged(ids, lengths))}

    def _describe(self, unused: tf.Tensor) -> Tensors:
        del unused  # TF Serving wants an input
        assets = {"manifest": self._manifest, "tokenizer": self._tokenizer_model}
        return {name: tf.io.read_file(asset.asset_path)[tf.newaxis] for name, asset in assets.items()}


def _decoding(options: Tensors) -> DecodingOptions:
    """The options that searches know."""
    return DecodingOptions(**{name: options[name] for name in DecodingOptions._fields})


def _neutral_options(rows: tf.Tensor) -> Tensors:
    """Every option of ``generate_ids`` at the value that changes nothing, and no prefix."""
    options = {name: tf.fill([rows], tf.constant(option.neutral, option.dtype)) for name, option in OPTIONS.items()}
    return {**options, "prefix_ids": tf.zeros([rows, 1], tf.int32), "prefix_lengths": tf.zeros([rows], tf.int32)}


def _perplexity(outputs: Tensors) -> tf.Tensor:
    """``exp(-score / length)`` with EOS counted, float32 [B, K]; infinite where there is no hypothesis."""
    lengths = tf.cast(tf.maximum(outputs["lengths"], 1), tf.float32)
    return tf.exp(-outputs["scores"] / lengths)


def _rows_of_places(ids: tf.Tensor) -> tf.Tensor:
    """[B, K, T] -> [B * K, T]"""
    shape = tf.shape(ids)
    return tf.reshape(ids, [shape[0] * shape[1], shape[2]])


def _ragged(ids: tf.Tensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """The first ``lengths`` [N] ids of every row of int32 [N, T]."""
    return tf.RaggedTensor.from_tensor(ids, lengths=lengths)
