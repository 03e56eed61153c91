"""Stop strings: where a text ends before one, and which tokens that takes."""

from __future__ import annotations

import bisect
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from service.tokenization import Tokenizer


class Cut(NamedTuple):
    """What is left of a text."""

    text: str
    tokens: int  # the fewest first new ones whose text holds the stop string; at least 1


def cut_at_stop(
    text: str, prefix_ids: Sequence[int], ids: Sequence[int], stop: Sequence[str], tokenizer: Tokenizer
) -> Cut | None:
    """The text before the first place where one of ``stop`` stands, None if none does.

    A stop string is looked for behind the prefix, as it is given and composed (NFC, which is how tokenizers spell
    texts: a keyboard may well send Hangul decomposed).

    Args:
        text: that of ``prefix_ids`` and ``ids`` together.
        ids: new tokens, without an end of sentence.
    """
    start = _start(text, prefix_ids, tokenizer)
    found = [
        (begin, begin + len(each))
        for each in {*stop, *(unicodedata.normalize("NFC", each) for each in stop)}
        if (begin := text.find(each, start)) >= 0
    ]
    if not found:
        return None
    begin, end = min(found)
    wanted = text[:end]

    def holds(count: int) -> bool:
        # Half of a character in bytes decodes to something else, so that what holds once goes on to hold.
        (so_far,) = tokenizer.decode([[*prefix_ids, *ids[:count]]])
        return so_far.startswith(wanted)

    return Cut(text[:begin], bisect.bisect_left(range(1, len(ids)), True, key=holds) + 1)


def _start(text: str, prefix_ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """Where the new text begins."""
    if not prefix_ids:
        return 0
    (prefix,) = tokenizer.decode([prefix_ids])
    return next((place for place, (a, b) in enumerate(zip(prefix, text, strict=False)) if a != b), len(prefix))
