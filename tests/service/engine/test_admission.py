from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from model_export.contract import Limits, Manifest
from service.backends.scripted import scripted_manifest, tiny_tokenizer
from service.batching import AdmittedRow, ScoringRow
from service.engine.admission import MOST_ATTENTION, Admission, admit, admit_to_score
from service.errors import InvalidRequest
from service.generation import GenerationOptions, GenerationRequest, ScoreRequest
from service.tokenization import SentencePieceTokenizer
from tests.support.plain_tokenizer import plain_tokenizer

LIMITS = Limits(max_source_tokens=6, max_target_tokens=8, max_beam_size=4, default_max_new_tokens=5)
TOKENIZER = SentencePieceTokenizer(tiny_tokenizer())


MANIFEST = scripted_manifest("echo", LIMITS)


def admitted(*texts: str, first_seed: int = 0, **options: Any) -> list[Admission[AdmittedRow]]:
    request = GenerationRequest("echo", 1, texts, GenerationOptions(**options))
    return admit(request, MANIFEST, TOKENIZER, seed=first_seed)


def to_score(*pairs: tuple[str, str], in_graph: bool = False, **parameters: bool) -> list[Admission[ScoringRow]]:
    texts, targets = zip(*pairs, strict=True)
    return admit_to_score(ScoreRequest("echo", 1, texts, targets, **parameters), MANIFEST, TOKENIZER, in_graph)


def test_texts_become_framed_ids() -> None:
    (first, second) = admitted("the word", "no")
    (ids,) = TOKENIZER.encode(["the word"])
    assert first.row.source_ids == [*ids, 3]
    assert second.row.source_ids[-1] == 3
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
    assert cut.warnings == ("input truncated by 2 tokens",)
    assert TOKENIZER.decode([cut.row.source_ids]) == ["the the the the the"]


def test_a_text_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"'inputs\[0\]' has nothing but invisible characters"):
        admitted("\u3000")


def test_the_graph_gets_the_texts_but_those_that_are_cut() -> None:
    request = GenerationRequest("echo", 1, ("the word", "the " * 6), GenerationOptions(truncate=True))
    manifest = scripted_manifest("echo", LIMITS)
    assert [each.row.text for each in admit(request, manifest, TOKENIZER, in_graph=True)] == ["the word", None]
    assert [each.row.text for each in admit(request, manifest, TOKENIZER)] == [None, None]


@pytest.mark.parametrize(
    ("options", "expected", "bound"),
    [
        ({}, 5, "the model's default of 'max_new_tokens', 5"),
        ({"max_new_tokens": 8}, 8, "'max_new_tokens', 8"),
        ({"min_new_tokens": 7}, 7, "'min_new_tokens', 7: 'max_new_tokens' may be more"),
        ({"prefix": "the the the the"}, 4, "the model's limit of 8 target tokens"),
        ({"prefix": "the the", "max_new_tokens": 6}, 6, "'max_new_tokens', 6"),
    ],
)
def test_new_tokens_are_bounded_by_request_default_and_target_limit(
    options: dict[str, Any], expected: int, bound: str
) -> None:
    (admission,) = admitted("no", **options)
    assert admission.row.max_new_tokens == expected
    assert admission.bound == bound


def test_a_prefix_is_tokenized_without_framing() -> None:
    (admission,) = admitted("no", prefix="the word")
    assert admission.row.prefix_ids == TOKENIZER.encode(["the word"])[0]


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


def test_sampled_texts_have_seeds_of_their_own_that_follow_each_other() -> None:
    seeds = [each.row.seed for each in admitted("no", "no", "no", do_sample=True, first_seed=2**63 - 2)]
    assert seeds == [2**63 - 2, 2**63 - 1, 0]
    assert [each.row.seed for each in admitted("no", "no", first_seed=7, seed=7)] == [0, 0]


def test_rows_share_calls_with_other_beam_sizes_where_the_graph_can() -> None:
    def mixes(manifest: Manifest, **options: object) -> list[bool]:
        request = GenerationRequest("echo", 1, ("the word",), GenerationOptions(**options))
        return [each.row.mixes_beam_sizes for each in admit(request, manifest, TOKENIZER)]

    assert mixes(MANIFEST) == mixes(MANIFEST, beam_size=4) == mixes(MANIFEST, do_sample=True) == [True]
    assert mixes(replace(MANIFEST, mixed_beam_sizes=False)) == [False]


def test_options_that_change_nothing_are_warned_of() -> None:
    (admission,) = admitted("no", top_k=3)
    assert admission.warnings == ("'top_k' changed nothing, because 'do_sample' is false",)


def test_characters_that_the_model_does_not_know_are_warned_of_where_it_reads_them() -> None:
    tokenizer = SentencePieceTokenizer(plain_tokenizer())
    options = GenerationOptions(prefix="ñ", truncate=True)
    request = GenerationRequest("echo", 1, ("the é no", "say so say so é"), options)
    first, cut = admit(request, replace(MANIFEST, limits=replace(LIMITS, max_source_tokens=12)), tokenizer)
    assert first.warnings == (
        "input has characters that the model does not know: 'é' at 4",
        "'prefix' has characters that the model does not know: 'ñ' at 0",
    )
    assert [each.split()[0] for each in cut.warnings] == ["input", "'prefix'"], "what was cut off it did not read"
    scored = ScoreRequest("echo", 1, ("no",), ("é",))
    (admission,) = admit_to_score(scored, MANIFEST, tokenizer)
    assert admission.warnings == ("target has characters that the model does not know: 'é' at 0",)


# --- scoring ----------------------------------------------------------------------------------------------------------


def test_targets_end_in_end_of_sentence() -> None:
    (admission,) = to_score(("the word", "no"))
    assert admission.row.source_ids == [*TOKENIZER.encode(["the word"])[0], 3]
    assert admission.row.target_ids == [*TOKENIZER.encode(["no"])[0], 3]
    assert (admission.warnings, admission.row.texts, admission.row.signature) == ((), None, "score_ids")


@pytest.mark.parametrize("target", ["", " ", "\u3000 "])
def test_a_target_of_nothing_is_that_the_text_ends_at_once(target: str) -> None:
    (admission,) = to_score(("the word", target))
    assert admission.row.target_ids == [3]
    assert admission.warnings == ("target has no tokens: the score is that of ending at once",)


def test_a_target_may_fill_the_limit_its_end_included() -> None:
    (admission,) = to_score(("no", "the " * 7))
    assert len(admission.row.target_ids) == LIMITS.max_target_tokens
    with pytest.raises(
        InvalidRequest, match=r"'targets\[1\]' has 8 tokens, and the model scores at most 7: shorten it"
    ):
        to_score(("no", "no"), ("no", "the " * 8), truncate=True)


def test_texts_are_admitted_as_for_generating() -> None:
    with pytest.raises(InvalidRequest, match=r"'inputs\[0\]' has 6 tokens, .*'truncate'"):
        to_score(("the " * 6, "no"))
    with pytest.raises(InvalidRequest, match=r"'inputs\[1\]' has nothing but invisible characters"):
        to_score(("no", "no"), ("\u3000", "no"))
    (cut,) = to_score(("the " * 6, "no"), truncate=True)
    assert (cut.truncated_tokens, cut.warnings) == (1, ("input truncated by 1 tokens",))


def test_the_graph_scores_texts_but_those_that_are_cut_and_aligns_them_always() -> None:
    pairs = ("the word", "no"), ("the " * 6, "no")
    assert [each.row.texts for each in to_score(*pairs, truncate=True, in_graph=True)] == [pairs[0], None]
    (aligned,) = to_score(pairs[0], align=True)
    assert (aligned.row.texts, aligned.row.signature) == (pairs[0], "align")
    with pytest.raises(InvalidRequest, match=r"'inputs\[1\]' has 1 tokens too many, and only whole texts are aligned"):
        to_score(*pairs, truncate=True, align=True)


def test_there_is_only_so_much_attention_in_one_answer() -> None:
    limits = replace(LIMITS, max_source_tokens=600, max_target_tokens=600)
    texts = ("the " * 499,) * 2
    request = ScoreRequest("echo", 1, texts, texts, align=True)
    with pytest.raises(
        InvalidRequest, match=f"asks for 500000 numbers of attention, .* at most {MOST_ATTENTION}: send"
    ):
        admit_to_score(request, replace(MANIFEST, limits=limits), TOKENIZER)
    one = replace(request, inputs=texts[:1], targets=texts[:1])
    assert len(admit_to_score(one, replace(MANIFEST, limits=limits), TOKENIZER)) == 1
