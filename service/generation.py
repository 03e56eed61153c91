"""Domain types of a request and its answer; every transport translates to and from these.

They are made by ``validation`` (requests) and ``engine`` (answers), and exist only if their fields are valid. Of what
there are many is a named tuple: a frozen dataclass takes four times as long to make.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

VERSIONS: Final = range(1, 2**63)
"""Numbers that a version of a model can have: TF Serving's, without 0, which on the wire of gRPC is no number."""
SEEDS: Final = 2**63
"""Seeds of sampling are below it; that of each further text is greater by 1, and behind the last comes 0."""
DRAWN_SEEDS: Final = 2**53
"""Seeds that nobody gave, and all that come of them in one request, stay below: JavaScript's integers end there."""
LABEL: Final = re.compile("[A-Za-z_][A-Za-z0-9_.-]{0,63}")
"""A label of versions, which is never a number."""
VersionChoice: TypeAlias = int | str | None
"""What a request names: a version's number, a label, or nothing."""


class FinishReason(str, enum.Enum):
    """Why a hypothesis ended; the values are the names on the wire."""

    EOS_TOKEN = "eos_token"  # the model ended the sentence
    LENGTH = "length"  # max_new_tokens was reached
    STOP_SEQUENCE = "stop_sequence"  # the text was cut before one of ``stop``


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to decode; one object for all texts of a request. Every default is neutral: it changes nothing.

    Which of them a model acts on is told by ``supported_options`` of its manifest; the rest stay neutral.
    """

    beam_size: int = 1
    """Hypotheses kept alive at each step; 1 is greedy search."""

    num_hypotheses: int = 1
    """Hypotheses returned for each text, best first; at most ``beam_size``, unless they are sampled."""

    max_new_tokens: int | None = None
    """Upper bound of new tokens, the end-of-sentence token included, a forced prefix not.

    None: the model's default, or what its target limit leaves after the prefix where that is less.
    """

    min_new_tokens: int = 0
    """The end-of-sentence token is masked until so many new tokens exist."""

    length_penalty: float = 1.0
    """Exponent a of ``normalized_score = log_prob / length ** a``, which ranks the hypotheses; 0 ranks by log_prob."""

    prefix: str = ""
    """Text that every hypothesis begins with; the search goes on behind its tokens."""

    do_sample: bool = False
    """Draw each token from the model's distribution instead of searching for the likeliest sequence."""

    temperature: float = 1.0
    """Logits are divided by it before the softmax of sampling."""

    top_k: int = 0
    """Sample among the k likeliest tokens only; 0: among all."""

    top_p: float = 1.0
    """Sample among the fewest likeliest tokens whose probabilities sum to at least p (Holtzman et al. 2020)."""

    seed: int | None = None
    """Seed of the noise of the first text, for the next one it is greater by 1; the same gives the same in any batch.

    None: one is drawn. Without ``do_sample`` there is no noise.
    """

    repetition_penalty: float = 1.0
    """Logits of tokens already generated are divided by it if positive, multiplied if negative (Keskar et al. 2019)."""

    no_repeat_ngram_size: int = 0
    """No n-gram of this size occurs twice; 0: any may."""

    disable_unk: bool = False
    """The unknown token is never generated."""

    stop: tuple[str, ...] = ()
    """A text ends before the first place behind the prefix where one of these stands."""

    truncate: bool = False
    """Cut a text that has too many tokens (and say so in ``warnings``) instead of refusing it."""

    details: bool = False
    """Return the tokens of each hypothesis with their log-probabilities."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Texts to generate from, for one version of one model.

    ``version`` is the one that will answer. Unless its number was ``asked`` for, another may if it goes before.
    """

    model: str
    version: int
    inputs: tuple[str, ...]
    options: GenerationOptions = field(default_factory=GenerationOptions)
    asked: VersionChoice = None


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Texts and, for each, a target whose probability is asked for."""

    model: str
    version: int
    inputs: tuple[str, ...]
    targets: tuple[str, ...]  # as many
    truncate: bool = False
    """Cut a text that has too many tokens instead of refusing it; a target is never cut."""
    details: bool = False
    """Return the tokens of each target with their log-probabilities and ranks."""
    align: bool = False
    """Return how much attention each token of the target pays to each token of the text."""
    asked: VersionChoice = None


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """Texts to tokenize as the model would, without what the model frames them with."""

    model: str
    version: int
    inputs: tuple[str, ...]
    asked: VersionChoice = None


@dataclass(frozen=True, slots=True)
class DetokenizeRequest:
    """Token ids to turn back into texts; each id is in the model's vocabulary."""

    model: str
    version: int
    ids: tuple[tuple[int, ...], ...]
    asked: VersionChoice = None


class Token(NamedTuple):
    """One new token: its id, its piece (``▁`` marks the start of a word) and the model's log-probability of it."""

    id: int
    piece: str
    log_prob: float


class Hypothesis(NamedTuple):
    """One generated text. Counts and scores speak of the new tokens: end of sentence included, a forced prefix not.

    Of one that ``stop`` cut they speak of the fewest first tokens that hold the stop string.
    """

    text: str  # begins with the prefix
    finish_reason: FinishReason
    generated_tokens: int
    score: float  # the model's own log-probability: the sum over the new tokens, natural logarithm
    normalized_score: float  # the order of hypotheses: processed log_prob / length ** length_penalty, before any cut
    perplexity: float  # exp(-score / generated_tokens)
    tokens: tuple[Token, ...] | None = None  # with ``details``


class RowOutput(NamedTuple):
    """The answer to one text: at least one hypothesis, best first."""

    input_tokens: int  # what the encoder read, framing included, after truncation
    hypotheses: tuple[Hypothesis, ...]
    warnings: tuple[str, ...] = ()
    seed: int | None = None  # of the row's noise, where it was sampled


class StageTimings(NamedTuple):
    """Where the time of a request went, in seconds.

    ``queue_s`` is the longest wait of a row for a backend slot, ``inference_s`` the longest run of a row's batch.
    """

    queue_s: float
    inference_s: float
    total_s: float


DETAILED: Final = 10
"""A token with details costs about as much work as so many without."""


class Generation(NamedTuple):
    """The answer to a request; ``outputs`` are in the order of its inputs."""

    model: str
    version: int
    outputs: tuple[RowOutput, ...]
    timings: StageTimings

    @property
    def size(self) -> int:
        """How much work it is to write: its new tokens, each with details counted as ``DETAILED``."""
        return sum(
            hypothesis.generated_tokens * (1 if hypothesis.tokens is None else DETAILED)
            for output in self.outputs
            for hypothesis in output.hypotheses
        )


@dataclass(frozen=True, slots=True)
class TargetToken:
    """One token of a target; ``rank`` is how many tokens the model finds likelier, 0 for its own choice."""

    id: int
    piece: str
    log_prob: float
    rank: int


@dataclass(frozen=True, slots=True)
class ScoredTarget:
    """What the model says of one target, end of sentence included."""

    input_tokens: int  # what the encoder read, framing included, after truncation
    target_tokens: int
    score: float  # the sum of the tokens' log-probabilities, natural logarithm
    perplexity: float  # exp(-score / target_tokens)
    tokens: tuple[TargetToken, ...] | None = None  # with ``details``
    input_pieces: tuple[str, ...] | None = None  # with ``align``: what the columns of ``attention`` stand for
    attention: tuple[tuple[float, ...], ...] | None = None  # with ``align``: [target_tokens][input_tokens]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scoring:
    """The answer to a request to score; ``outputs`` are in the order of its inputs."""

    model: str
    version: int
    outputs: tuple[ScoredTarget, ...]
    timings: StageTimings

    @property
    def size(self) -> int:
        """How much work it is to write, as of ``Generation``; attention is as many numbers."""
        return sum(
            output.target_tokens * (1 if output.tokens is None else DETAILED) + sum(map(len, output.attention or ()))
            for output in self.outputs
        )


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ids and pieces of one text, equally many."""

    ids: tuple[int, ...]
    pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tokenization:
    """The answer to a request to tokenize; ``outputs`` are in the order of its inputs."""

    model: str
    version: int
    outputs: tuple[Tokens, ...]


@dataclass(frozen=True, slots=True)
class Detokenization:
    """The answer to a request to detokenize; ``texts`` are in the order of its ids."""

    model: str
    version: int
    texts: tuple[str, ...]
