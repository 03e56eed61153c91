"""What an answer warns of: the sentences of ``warnings``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from service.generation import FinishReason, GenerationOptions
from service.tokenization import Tokenizer, Unknown

MOST_NAMED: Final = 8
"""Places of unknown characters that one warning names; further ones are counted."""
LONGEST_NAMED: Final = 16
"""Characters of such a place that are shown."""
_NEUTRAL: Final = GenerationOptions()
_OF_SAMPLING: Final = ("temperature", "top_k", "top_p")


def truncated(tokens: int) -> list[str]:
    """Of a text whose last ``tokens`` were cut off."""
    return [f"input truncated by {tokens} tokens"] if tokens else []


def unknown(name: str, text: str, ids: Sequence[int], unknown_id: int, tokenizer: Tokenizer) -> list[str]:
    """Of characters for which the model has no token, in a text that it reads as ``ids``.

    Only tokenizers without byte fallback leave such.
    """
    if unknown_id not in ids:
        return []
    places = tokenizer.unknown(text, len(ids))
    named = ", ".join(map(_place, places[:MOST_NAMED]))
    more = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
    return [f"{name} has characters that the model does not know: {named}{more}"]


def target(text: str, ids: Sequence[int], unknown_id: int, tokenizer: Tokenizer) -> list[str]:
    """Of a target that is to be scored as ``ids``, the end of the sentence not among them."""
    if not ids:
        return ["target has no tokens: the score is that of ending at once"]
    return unknown("target", text, ids, unknown_id, tokenizer)


def without_sampling(options: GenerationOptions) -> list[str]:
    """Of options that change nothing where nothing is sampled."""
    if options.do_sample:
        return []
    idle = [name for name in _OF_SAMPLING if getattr(options, name) != getattr(_NEUTRAL, name)]
    if not idle:
        return []
    names = ", ".join(f"'{name}'" for name in idle)
    return [f"{names} changed nothing, because 'do_sample' is false"]


def cut(reasons: Sequence[FinishReason], bound: str) -> list[str]:
    """Of hypotheses that ended for ``reasons`` and may have had to, by ``bound``."""
    count = reasons.count(FinishReason.LENGTH)
    if not count:
        return []
    what = "output" if count == len(reasons) else f"{count} of {len(reasons)} hypotheses"
    return [f"{what} cut by {bound}"]


def _place(unknown: Unknown) -> str:
    shown = unknown.characters[:LONGEST_NAMED]
    return f"{shown!r}{'...' if shown != unknown.characters else ''} at {unknown.position}"
