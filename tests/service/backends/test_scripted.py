from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_export.contract import SIGNATURES, FinishReason, Manifest, sha256
from service.backend import Arrays
from service.backends.scripted import ScriptedBackend, tiny_tokenizer
from service.backends.signatures import check_outputs
from service.batching import AdmittedRow
from service.batching.rows import batch_inputs
from service.errors import BackendFailed, DeadlineExceeded, ModelNotFound
from service.tokenization import SentencePieceTokenizer
from tests.support.rows import make_row, make_scoring_row


def predict(inputs: Arrays, signature: str = "generate_ids", **arguments: Any) -> dict[str, NDArray[Any]]:
    async def main() -> dict[str, NDArray[Any]]:
        backend = ScriptedBackend(**arguments)
        await backend.start()
        return await backend.predict("echo", 1, signature, inputs)

    return asyncio.run(main())


def test_it_echoes_and_turns_further_hypotheses() -> None:
    outputs = predict(batch_inputs([make_row(4, beam_size=2, num_hypotheses=2)]))
    assert outputs["ids"].tolist() == [[[260, 261, 262, 3], [261, 262, 260, 3]]]
    assert outputs["finish_reasons"].tolist() == [[FinishReason.EOS_TOKEN] * 2]
    assert outputs["scores"][0, 0] > outputs["scores"][0, 1]


@pytest.mark.parametrize(
    ("signature", "inputs"),
    [
        ("generate_ids", batch_inputs([make_row(4), make_row(3)])),
        ("generate", batch_inputs([make_row(text="the word"), make_row(text="no")])),
        ("score_ids", batch_inputs([make_scoring_row(4), make_scoring_row(3)])),
        ("score", batch_inputs([make_scoring_row(texts=("the word", "no")), make_scoring_row(texts=("no", ""))])),
        ("align", batch_inputs([make_scoring_row(texts=("a", "no"), align=True), make_scoring_row(texts=("no", ""))])),
        ("tokenize", {"texts": np.array([b"the word", b"\xe3\x80\x80"], object)}),
        ("detokenize", {"ids": np.array([[260, 261], [262, 0]], np.int32), "lengths": np.array([2, 1], np.int32)}),
        ("describe", {"unused": np.array([b""], object)}),
    ],
)
def test_answers_have_the_contracts_names_types_and_shapes(signature: str, inputs: Arrays) -> None:
    outputs = predict(inputs, signature)
    assert outputs.keys() == SIGNATURES[signature].outputs.keys()
    check_outputs(signature, SIGNATURES[signature], outputs, 1 if signature == "describe" else 2)


def test_generating_from_texts_is_generating_from_their_tokens() -> None:
    texts = ["the word", "말길", "no one knows"]
    rows = [make_row(text=text, beam_size=2, num_hypotheses=2, max_new_tokens=3) for text in texts]
    tokens = predict({"texts": np.array([text.encode() for text in texts], object)}, "tokenize")
    prefix = {"prefix_ids": np.array([[260]] * 3, np.int32), "prefix_lengths": np.array([1, 0, 1], np.int32)}
    found = predict(batch_inputs(rows) | prefix, "generate")
    by_ids = []
    for row, ids, length in zip(rows, tokens["ids"], tokens["lengths"], strict=True):
        source_ids = [*ids[:length], 3]
        by_ids.append(AdmittedRow(row.model, 1, source_ids, row.prefix_ids, row.options, row.max_new_tokens, row.seed))
    expected = predict(batch_inputs(by_ids) | prefix)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    for row, place in np.ndindex(3, 2):
        length = expected["lengths"][row, place]
        ended = expected["finish_reasons"][row, place] == FinishReason.EOS_TOKEN
        ids = [260] * prefix["prefix_lengths"][row] + expected["ids"][row, place, : length - ended].tolist()
        sequence = {"ids": np.array([ids], np.int32), "lengths": np.array([len(ids)], np.int32)}
        assert found["sentences"][row, place] == predict(sequence, "detokenize")["sentences"][0]


def test_a_text_that_is_too_long_fails_as_in_a_graph() -> None:
    with pytest.raises(BackendFailed, match="more tokens"):
        predict(batch_inputs([make_row(text="the " * 600)]), "generate")


@pytest.mark.parametrize(
    ("options", "ids", "reason"),
    [
        ({"max_new_tokens": 2}, [260, 261], FinishReason.LENGTH),
        ({"max_new_tokens": 4}, [260, 261, 262, 3], FinishReason.EOS_TOKEN),
        ({"min_new_tokens": 6}, [260, 261, 262, 260, 261, 3], FinishReason.EOS_TOKEN),
    ],
)
def test_bounds_are_kept(options: dict[str, Any], ids: list[int], reason: FinishReason) -> None:
    outputs = predict(batch_inputs([make_row(4, **options)]))
    assert outputs["ids"][0, 0].tolist() == ids
    assert outputs["finish_reasons"][0, 0] == reason


def test_a_prefix_takes_the_place_of_the_first_tokens() -> None:
    inputs = batch_inputs([make_row(4)])
    inputs |= {"prefix_ids": np.array([[299]], np.int32), "prefix_lengths": np.array([1], np.int32)}
    assert predict(inputs)["ids"].tolist() == [[[261, 262, 3]]]


def test_a_row_answers_the_same_in_any_batch() -> None:
    rows = [make_row(length, max_new_tokens=bound) for length, bound in ((9, 128), (2, 1), (5, 3))]
    together = predict(batch_inputs(rows))
    for index, row in enumerate(rows):
        alone = predict(batch_inputs([row]))
        length = alone["lengths"][0, 0]
        assert together["ids"][index, 0, :length].tolist() == alone["ids"][0, 0].tolist()
        assert together["scores"][index, 0] == alone["scores"][0, 0]


def test_it_describes_itself() -> None:
    outputs = predict({"unused": np.array([b""], object)}, "describe")
    manifest = Manifest.from_json(outputs["manifest"][0])
    assert manifest.tokenizer.sha256 == sha256(outputs["tokenizer"][0])


@pytest.mark.parametrize("option", ["do_sample", "top_k", "temperature"])
def test_unsupported_options_are_refused_as_the_graph_does(option: str) -> None:
    inputs = batch_inputs([make_row()])
    inputs[option] = np.ones_like(inputs[option]) * (inputs[option].dtype.type(5) if option != "do_sample" else True)
    assert predict(inputs)["lengths"].tolist() == [[4]]

    async def main() -> None:
        backend = ScriptedBackend()
        await backend.start()
        (version,) = backend.versions()
        others = tuple(name for name in version.manifest.supported_options if name != option)
        older = replace(version.manifest, supported_options=others)
        backend.set_versions([replace(version, manifest=older)])
        await backend.predict("echo", 1, "generate_ids", inputs)

    with pytest.raises(BackendFailed, match=option):
        asyncio.run(main())


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 1},
        {"disable_unk": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_it_does_not_act_on_change_nothing(options: dict[str, Any]) -> None:
    for row in (make_row(9, **options), make_row(9, do_sample=True, seed=3, **options)):
        plain = make_row(9, do_sample=row.options.do_sample, seed=row.seed)
        assert predict(batch_inputs([row]))["ids"].tolist() == predict(batch_inputs([plain]))["ids"].tolist()


def test_samples_follow_from_seed_and_place_alone() -> None:
    rows = [make_row(30, do_sample=True, num_hypotheses=4, seed=seed) for seed in (1, 2, 1, 2**63 - 1)]
    together = predict(batch_inputs(rows))["ids"]
    for row, ids in zip(rows, together, strict=True):
        assert predict(batch_inputs([row]))["ids"].tolist() == [ids.tolist()]
    assert together[0].tolist() == together[2].tolist()
    assert len({tuple(ids) for row in together for ids in row.tolist()}) > 8
    greedy = predict(batch_inputs([make_row(30)]))["ids"]
    likeliest = make_row(30, do_sample=True, seed=5, top_k=1)
    assert predict(batch_inputs([likeliest]))["ids"].tolist() == greedy.tolist()


def test_hypotheses_come_best_first_whatever_ranks_them() -> None:
    for options in ({"beam_size": 4}, {"do_sample": True, "seed": 4}):
        for penalty in (0.0, 1.0, 2.0):
            row = make_row(9, num_hypotheses=4, length_penalty=penalty, **options)
            (scores,) = predict(batch_inputs([row]))["normalized_scores"].tolist()
            assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "options",
    [{"beam_size": 3, "num_hypotheses": 3}, {"do_sample": True, "num_hypotheses": 2, "seed": 9}, {"min_new_tokens": 9}],
    ids=str,
)
def test_a_score_is_what_generating_told(options: dict[str, Any]) -> None:
    generated = predict(batch_inputs([make_row(6, **options)]))
    (lengths,) = generated["lengths"].tolist()
    for place, length in enumerate(lengths):
        target = generated["ids"][0, place, :length].tolist()
        scored = predict(batch_inputs([make_scoring_row(6, target_ids=target)]), "score_ids")
        np.testing.assert_array_equal(scored["token_log_probs"], generated["token_log_probs"][:, place, :length])
        assert scored["perplexity"] == pytest.approx(np.exp(-generated["scores"][0, place] / length))


def test_ranks_are_places_in_its_order() -> None:
    """After 260 261 262 it expects 260 first of all, and the end only behind what the source has."""
    (ranks,) = predict(batch_inputs([make_scoring_row(4, target_ids=[260, 262, 3, 3, 299])]), "score_ids")[
        "token_ranks"
    ]
    assert ranks.tolist() == [0, 1, 3, 0, 4]


def test_scoring_texts_is_scoring_their_tokens() -> None:
    pairs = [("the word", "the word"), ("말길", "no one"), ("no", "")]
    rows = [make_scoring_row(texts=pair) for pair in pairs]
    found = predict(batch_inputs(rows), "score")
    tokenizer = SentencePieceTokenizer(tiny_tokenizer())
    for index, pair in enumerate(pairs):
        source, target = tokenizer.encode(pair)
        ids = {"source_ids": [[*source, 3]], "target_ids": [[*target, 3]]}
        ids |= {"source_lengths": [len(source) + 1], "target_lengths": [len(target) + 1]}
        expected = predict({name: np.array(value, np.int32) for name, value in ids.items()}, "score_ids")
        length = len(target) + 1
        assert found["lengths"][index] == length
        assert found["token_log_probs"][index, :length].tolist() == expected["token_log_probs"][0].tolist()
        assert not found["token_log_probs"][index, length:].any()
    assert found["token_ranks"][0].tolist()[:3] == [0, 0, 0]


def test_tokens_look_where_they_come_from() -> None:
    attention = predict(batch_inputs([make_scoring_row(texts=("the word", "word no"), align=True)]), "align")[
        "attention"
    ]
    assert attention.sum(-1) == pytest.approx(np.ones(attention.shape[:2]))
    assert attention[0, 0].tolist() == [0, 1, 0], "word is the second of: the, word, end"
    assert attention[0, -1].tolist() == [0, 0, 1]
    assert attention[0, 1] == pytest.approx(1 / 3)


def test_a_target_that_is_too_long_fails_as_in_a_graph() -> None:
    with pytest.raises(BackendFailed, match="more tokens"):
        predict(batch_inputs([make_scoring_row(target_ids=[260] * 513)]), "score_ids")


def test_rows_of_unlike_beam_sizes_are_answered_where_the_artifact_says_so() -> None:
    inputs = batch_inputs([make_row(), make_row(beam_size=2, num_hypotheses=2)])
    assert (predict(inputs)["lengths"] > 0).tolist() == [[True, False], [True, True]]

    async def main() -> None:
        backend = ScriptedBackend()
        await backend.start()
        (version,) = backend.versions()
        backend.set_versions([replace(version, manifest=replace(version.manifest, mixed_beam_sizes=False))])
        await backend.predict("echo", 1, "generate_ids", inputs)

    with pytest.raises(BackendFailed, match="unlike beam sizes"):
        asyncio.run(main())


def test_only_what_is_there_answers() -> None:
    async def main() -> None:
        backend = ScriptedBackend({"echo": (1, 2)})
        inputs = batch_inputs([make_row()])
        with pytest.raises(ModelNotFound):  # not started
            await backend.predict("echo", 1, "generate_ids", inputs)
        await backend.start()
        assert [version.version for version in backend.versions()] == [2, 1]
        with pytest.raises(ModelNotFound):
            await backend.predict("echo", 3, "generate_ids", inputs)
        with pytest.raises(BackendFailed, match="no signature"):
            await backend.predict("echo", 1, "serving_default", inputs)
        await backend.close()
        with pytest.raises(ModelNotFound):
            await backend.predict("echo", 1, "generate_ids", inputs)

    asyncio.run(main())


def test_it_runs_so_many_calls_at_a_time_as_it_has_slots_and_keeps_the_deadline() -> None:
    async def main() -> None:
        backend = ScriptedBackend(slots=2, delay_s=0.05)
        await backend.start()
        inputs = batch_inputs([make_row()])
        started = asyncio.get_running_loop().time()
        await asyncio.gather(*(backend.predict("echo", 1, "generate_ids", inputs) for _ in range(4)))
        assert asyncio.get_running_loop().time() - started >= 0.1
        with pytest.raises(DeadlineExceeded):
            await backend.predict("echo", 1, "generate_ids", inputs, timeout_s=0.01)

    asyncio.run(main())
