"""Admission: texts become token ids, which are counted against the model's limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from model_export.contract import Limits, Manifest
from service.batching import AdmittedRow, ScoringRow
from service.batching.rows import Ids
from service.engine import row_warnings
from service.errors import InvalidRequest
from service.generation import SEEDS, GenerationOptions, GenerationRequest, ScoreRequest
from service.tokenization import Tokenizer

MOST_ATTENTION: Final = 300_000
"""Numbers of attention in one answer, some 3 MB of JSON: texts and targets of a request could ask for many more."""

R = TypeVar("R", AdmittedRow, ScoringRow)


@dataclass(slots=True)  # frozen, each would take four times as long to make
class Admission(Generic[R]):
    """A row that may run, how many tokens of its text were cut off, and what its answer has to warn of already.

    ``bound`` says what bounds its new tokens.
    """

    row: R
    truncated_tokens: int
    warnings: tuple[str, ...] = ()
    bound: str = ""


def admit(
    request: GenerationRequest, manifest: Manifest, tokenizer: Tokenizer, in_graph: bool = False, seed: int = 0
) -> list[Admission[AdmittedRow]]:
    """One row for each text.

    Args:
        in_graph: the graph tokenizes them again, but those that are cut, which it could not do.
        seed: of the first row that is sampled; that of each further one is greater by 1.

    Raises:
        InvalidRequest: a text has too many tokens or none, or the prefix leaves no room for what is asked for.
    """
    options, unk = request.options, manifest.special_ids.unk
    prefix_ids = _prefix_ids(options, tokenizer)
    max_new_tokens, bound = _max_new_tokens(options, manifest.limits, len(prefix_ids))
    of_all = [
        *row_warnings.unknown("'prefix'", options.prefix, prefix_ids, unk, tokenizer),
        *row_warnings.without_sampling(options),
    ]
    return [
        Admission(
            AdmittedRow(
                request.model,
                request.version,
                source.ids,
                prefix_ids,
                options,
                max_new_tokens,
                (seed + index) % SEEDS if options.do_sample else 0,
                text if in_graph and not source.excess else None,
                manifest.mixed_beam_sizes,
            ),
            source.excess,
            (*source.warnings, *of_all),
            bound,
        )
        for index, (text, source) in enumerate(
            zip(request.inputs, _sources(request.inputs, options.truncate, manifest, tokenizer), strict=True)
        )
    ]


def admit_to_score(
    request: ScoreRequest, manifest: Manifest, tokenizer: Tokenizer, in_graph: bool = False
) -> list[Admission[ScoringRow]]:
    """One row for each text and its target.

    Args:
        in_graph: as of ``admit``; what is aligned always is the graph's to tokenize.

    Raises:
        InvalidRequest: a text has too many tokens or none, a target has too many, or there is too much to align.
    """
    admissions = []
    in_graph = request.align or (in_graph and "score" in manifest.signatures)
    sources = _sources(request.inputs, request.truncate, manifest, tokenizer)
    for index, (source, target) in enumerate(zip(sources, _targets(request, manifest, tokenizer), strict=True)):
        if request.align and source.excess:
            raise InvalidRequest(
                f"'inputs[{index}]' has {source.excess} tokens too many, and only whole texts are aligned: "
                "shorten it, or leave out 'align'"
            )
        texts = (request.inputs[index], request.targets[index]) if in_graph and not source.excess else None
        row = ScoringRow(request.model, request.version, source.ids, target.ids, request.align, texts)
        admissions.append(Admission(row, source.excess, (*source.warnings, *target.warnings)))
    if request.align:
        _refuse_too_much_attention([admission.row for admission in admissions])
    return admissions


class _Encoded(NamedTuple):
    """A text as the model reads it."""

    ids: Ids
    excess: int  # tokens that were cut off
    warnings: tuple[str, ...]


def _sources(texts: Sequence[str], truncate: bool, manifest: Manifest, tokenizer: Tokenizer) -> Iterator[_Encoded]:
    framing = manifest.framing
    room = manifest.limits.max_source_tokens - len(framing.source_prefix) - len(framing.source_suffix)
    for index, (text, ids) in enumerate(zip(texts, tokenizer.encode(texts), strict=True)):
        if not ids:
            raise InvalidRequest(
                f"'inputs[{index}]' has nothing but invisible characters: send a text with visible ones"
            )
        excess = max(0, len(ids) - room)
        if excess and not truncate:
            raise InvalidRequest(
                f"'inputs[{index}]' has {len(ids)} tokens, and the model reads at most {room}: "
                "shorten it, or set 'truncate' to true"
            )
        yield _Encoded(
            [*framing.source_prefix, *ids[:room], *framing.source_suffix],
            excess,
            (
                *row_warnings.truncated(excess),
                *row_warnings.unknown("input", text, ids[:room], manifest.special_ids.unk, tokenizer),
            ),
        )


def _targets(request: ScoreRequest, manifest: Manifest, tokenizer: Tokenizer) -> Iterator[_Encoded]:
    room = manifest.limits.max_target_tokens - 1  # for the end of the sentence
    special_ids = manifest.special_ids
    for index, (text, ids) in enumerate(zip(request.targets, tokenizer.encode(request.targets), strict=True)):
        if len(ids) > room:
            raise InvalidRequest(
                f"'targets[{index}]' has {len(ids)} tokens, and the model scores at most {room}: shorten it"
            )
        yield _Encoded(
            [*ids, special_ids.eos],
            0,
            tuple(row_warnings.target(text, ids, special_ids.unk, tokenizer)),
        )


def _refuse_too_much_attention(rows: Sequence[ScoringRow]) -> None:
    numbers = sum(len(row.source_ids) * len(row.target_ids) for row in rows)
    if numbers > MOST_ATTENTION:
        raise InvalidRequest(
            f"'align' asks for {numbers} numbers of attention, and one answer holds at most {MOST_ATTENTION}: "
            "send fewer or shorter texts"
        )


def _prefix_ids(options: GenerationOptions, tokenizer: Tokenizer) -> Ids:
    ids = tokenizer.encode([options.prefix])[0] if options.prefix else []
    if options.prefix and not ids:
        raise InvalidRequest("'prefix' has nothing but invisible characters: leave it out, or give visible ones")
    return ids


def _max_new_tokens(options: GenerationOptions, limits: Limits, prefix_tokens: int) -> tuple[int, str]:
    """The bound that the request sets, or the model's default as far as the target limit allows it; and its name."""
    room = limits.max_target_tokens - prefix_tokens
    least = max(1, options.min_new_tokens, options.max_new_tokens or 0)
    if least > room:
        raise InvalidRequest(
            f"'prefix' has {prefix_tokens} tokens, which with {least} new ones exceed the model's "
            f"{limits.max_target_tokens}: shorten it, or ask for fewer new tokens"
        )
    if options.max_new_tokens is not None:
        return options.max_new_tokens, f"'max_new_tokens', {options.max_new_tokens}"
    default = limits.default_max_new_tokens
    if default > room:
        return room, f"the model's limit of {limits.max_target_tokens} target tokens"
    if options.min_new_tokens > default:
        return options.min_new_tokens, f"'min_new_tokens', {options.min_new_tokens}: 'max_new_tokens' may be more"
    return default, f"the model's default of 'max_new_tokens', {default}"
