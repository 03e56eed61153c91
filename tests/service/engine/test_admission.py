from __future__ import annotations

from typing import Any

import pytest

from model_export.contract import Limits
from service.backends.scripted import scripted_manifest, tiny_tokenizer
from service.engine.admission import Admission, admit
from service.errors import InvalidRequest
from service.generation import GenerationOptions, GenerationRequest
from service.tokenization import SentencePieceTokenizer

LIMITS = Limits(max_source_tokens=6, max_target_tokens=8, max_beam_size=4, default_max_new_tokens=5)
TOKENIZER = SentencePieceTokenizer(tiny_tokenizer())


def admitted(*texts: str, **options: Any) -> list[Admission]:
    request = GenerationRequest("echo", 1, texts, GenerationOptions(**options))
    return admit(request, scripted_manifest("echo", LIMITS), TOKENIZER)


def test_texts_become_framed_ids() -> None:
    (first, second) = admitted("the word", "no")
    (ids,) = TOKENIZER.encode(["the word"])
    assert first.row.source_ids.tolist() == [*ids, 3]
    assert second.row.source_ids.tolist()[-1] == 3
    assert first.truncated_tokens == 0


def test_a_text_may_fill_the_limit_framing_included() -> None:
    (admission,) = admitted("the the the the the")
    assert len(admission.row.source_ids) == LIMITS.max_source_tokens


def test_too_many_tokens_are_refused_or_cut_and_counted() -> None:
    text = "the the the the the the word"
    with pytest.raises(InvalidRequest, match=r"'inputs\[1\]' has 7 tokens, .* at most 5: .*'truncate'"):
        admitted("no", text)
    _, cut = admitted("no", text, truncate=True)
    assert cut.truncated_tokens == 2
    assert TOKENIZER.decode([cut.row.source_ids.tolist()]) == ["the the the the the"]


def test_a_text_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"'inputs\[0\]' has nothing but invisible characters"):
        admitted("\u3000")


def test_the_graph_gets_the_texts_but_those_that_are_cut() -> None:
    request = GenerationRequest("echo", 1, ("the word", "the " * 6), GenerationOptions(truncate=True))
    manifest = scripted_manifest("echo", LIMITS)
    assert [each.row.text for each in admit(request, manifest, TOKENIZER, in_graph=True)] == ["the word", None]
    assert [each.row.text for each in admit(request, manifest, TOKENIZER)] == [None, None]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 5),
        ({"max_new_tokens": 8}, 8),
        ({"min_new_tokens": 7}, 7),
        ({"prefix": "the the the the"}, 4),
        ({"prefix": "the the", "max_new_tokens": 6}, 6),
    ],
)
def test_new_tokens_are_bounded_by_request_default_and_target_limit(options: dict[str, Any], expected: int) -> None:
    (admission,) = admitted("no", **options)
    assert admission.row.max_new_tokens == expected


def test_a_prefix_is_tokenized_without_framing() -> None:
    (admission,) = admitted("no", prefix="the word")
    assert admission.row.prefix_ids.tolist() == TOKENIZER.encode(["the word"])[0]


@pytest.mark.parametrize(
    "options",
    [
        {"prefix": "the " * 8},
        {"prefix": "the the the", "max_new_tokens": 6},
        {"prefix": "the the the", "min_new_tokens": 6},
    ],
)
def test_a_prefix_that_leaves_no_room_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"'prefix' has \d tokens, which with \d new ones exceed the model's 8"):
        admitted("no", **options)
