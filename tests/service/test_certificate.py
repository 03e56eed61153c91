"""Replay against the scripted backend, whose answers to ``generate_ids`` are known; a real artifact's replay is in
``backends/test_embedded.py``."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from model_export.contract import SIGNATURES, Certificate, FinishReason, GoldenCase
from service import certificate
from service.backends.scripted import ScriptedBackend, scripted_manifest, tiny_tokenizer
from service.errors import BackendFailed
from service.tokenization import SentencePieceTokenizer
from tests.support.rows import at_most

TEXTS = ["the word", "말길 no one knows", "é", "it is what it is"]
TOLERANCE = 1e-3


async def _predict_with(backend, signature, inputs):
    return await backend.predict("echo", 1, signature, inputs)


def _replay(manifest, tokenizer=None, change=lambda outputs: None, signatures=("generate_ids", "generate"), asked=None):
    """The differences, when ``change`` is done to the outputs of every call of ``signatures``.

    The names of the signatures that were called go into ``asked``.
    """
    asked = [] if asked is None else asked

    async def scenario():
        backend = ScriptedBackend()
        await backend.start()

        async def predict(signature, inputs):
            asked.append(signature)
            outputs = await _predict_with(backend, signature, inputs)
            if signature in signatures:
                change(outputs)
            return outputs

        return await certificate.replay(manifest, tokenizer or tiny_tokenizer(), predict)

    return asyncio.run(scenario())


@pytest.fixture(scope="module")
def manifest():
    """A manifest whose cases hold what the script answers; greedy ones and beams, one with a prefix."""
    tokenizer = SentencePieceTokenizer(tiny_tokenizer())
    prefix = tuple(tokenizer.encode(["the"])[0])
    questions = [
        _question(tokenizer, TEXTS[0], {}),
        _question(tokenizer, TEXTS[1], {"beam_size": 4, "num_hypotheses": 3}),
        _question(tokenizer, TEXTS[2], {"max_new_tokens": 2}),
        _question(tokenizer, TEXTS[3], {"beam_size": 4}, prefix),
    ]
    cases = asyncio.run(_answered(questions, tokenizer))
    return replace(scripted_manifest("echo"), certificate=Certificate(TOLERANCE, 1e-3, tuple(cases)))


def _question(tokenizer, text, options, prefix=()):
    source = (*tokenizer.encode([text])[0], 3)
    return GoldenCase(text, text, source, options, prefix, (), (), (), ())


async def _answered(questions, tokenizer):
    backend = ScriptedBackend()
    await backend.start()
    cases = []
    for case in questions:
        source = np.array([case.source_ids], np.int32)
        inputs = {"source_ids": source, "source_lengths": np.array([source.shape[1]], np.int32)}
        outputs = await _predict_with(backend, "generate_ids", inputs | certificate.option_inputs([case]))
        places = range(case.options.get("num_hypotheses", 1))
        ids = tuple(tuple(outputs["ids"][0, k, : outputs["lengths"][0, k]].tolist()) for k in places)
        cases.append(
            replace(
                case,
                ids=ids,
                sentences=tuple(tokenizer.decode([case.prefix_ids + each for each in ids])),
                scores=tuple(outputs["scores"][0].tolist()),
                finish_reasons=tuple(outputs["finish_reasons"][0].tolist()),
            )
        )
    return cases


def _with_cases(manifest, change):
    """The manifest with ``change`` done to its second case."""
    cases = list(manifest.certificate.cases)
    cases[1] = replace(cases[1], **change(cases[1]))
    return replace(manifest, certificate=replace(manifest.certificate, cases=tuple(cases)))


def test_an_artifact_that_keeps_its_word_differs_in_nothing(manifest):
    assert _replay(manifest) == []


def test_no_certificate_is_no_word_kept(manifest):
    assert _replay(replace(manifest, certificate=None)) == ["the manifest has no certificate"]
    without_cases = replace(manifest, certificate=replace(manifest.certificate, cases=()))
    assert _replay(without_cases) == ["the manifest has no certificate"]


def test_another_tokenizer_is_noticed_before_anything_runs(manifest):
    (difference,) = _replay(manifest, tiny_tokenizer() + b"\0")
    assert "SHA-256" in difference


def test_bytes_that_are_no_tokenizer_are_a_difference(manifest):
    from model_export.contract import sha256

    broken = replace(manifest, tokenizer=replace(manifest.tokenizer, sha256=sha256(b"broken")))
    (difference,) = _replay(broken, b"broken")
    assert difference.startswith("the tokenizer cannot be read")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda outputs: outputs["ids"].__setitem__((0, 0, 0), 7), "ids"),
        (lambda outputs: outputs["lengths"].__isub__(1), "ids"),
        (lambda outputs: outputs["scores"].__iadd__(2 * TOLERANCE), "scores"),
        (lambda outputs: outputs["scores"].__imul__(np.nan), "scores"),
        (lambda outputs: outputs["finish_reasons"].__imul__(2), "finish reasons"),
        (lambda outputs: outputs.update(ids=outputs["ids"][:, :0]), "hypotheses"),
    ],
)
@pytest.mark.parametrize("signature", ["generate_ids", "generate"])
def test_an_answer_that_differs_is_told_by_case_and_output(manifest, signature, change, what):
    differences = _replay(manifest, change=change, signatures=(signature,))
    assert differences
    assert all(difference.startswith(f"{signature}, case '") for difference in differences)
    assert any(f": {what} " in difference for difference in differences)


@pytest.mark.parametrize("change", [lambda array: array.__iadd__(2 * TOLERANCE), lambda array: array.__imul__(np.nan)])
@pytest.mark.parametrize("signature", ["score_ids", "score"])
def test_an_answer_that_is_scored_unlike_it_was_found_is_told(manifest, signature, change):
    differences = _replay(manifest, change=lambda outputs: change(outputs["token_log_probs"]), signatures=(signature,))
    cases = [  # a text that was cut does not end in EOS
        case
        for case in manifest.certificate.cases
        if signature == "score_ids" or case.finish_reasons[0] == FinishReason.EOS_TOKEN
    ]
    assert len(cases) == {"score_ids": 4, "score": 3}[signature]
    assert [difference.split(" instead of")[0].rsplit(" ", 1)[0] for difference in differences] == [
        f"{signature}, case {case.name!r}: score" for case in cases
    ]


def test_the_tokens_of_a_prefix_are_no_part_of_a_score(manifest):
    spoiled = []

    def change(outputs):
        (row,) = [row for row, case in enumerate(manifest.certificate.cases) if case.prefix_ids]
        spoiled.append(row)
        outputs["token_log_probs"][row, : len(manifest.certificate.cases[row].prefix_ids)] -= 1.0

    assert _replay(manifest, change=change, signatures=("score_ids",)) == []
    assert spoiled


@pytest.mark.parametrize("missing", [("score",), ("score", "score_ids", "align")])
def test_what_an_artifact_does_not_have_is_not_asked_of_it(manifest, missing):
    """That of a model exported before there was scoring, among others."""
    asked = []
    signatures = {name: spec for name, spec in manifest.signatures.items() if name not in missing}
    assert _replay(replace(manifest, signatures=signatures), asked=asked) == []
    assert {"generate_ids", "generate", "tokenize"} <= set(asked)
    assert set(asked).isdisjoint(missing)
    assert ("score_ids" in asked) is ("score_ids" not in missing)


def test_scores_may_differ_within_the_tolerance(manifest):
    assert _replay(manifest, change=lambda outputs: outputs["scores"].__iadd__(0.5 * TOLERANCE)) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda case: {"source_ids": (4, *case.source_ids)}, "source ids"),
        (lambda case: {"sentences": ("another", *case.sentences[1:])}, "sentences"),
    ],
)
def test_the_gateways_own_tokenizer_is_held_to_the_cases_too(manifest, change, what):
    differences = _replay(_with_cases(manifest, change))
    assert any(
        difference.startswith(f"the gateway's tokenizer, case {TEXTS[1]!r}: {what} ") for difference in differences
    )


def test_sentences_of_the_graph_are_held_to_the_cases_too(manifest):
    differences = _replay(
        manifest, change=lambda outputs: outputs["sentences"].fill(b"other"), signatures=("generate",)
    )
    assert any(": sentences ('other',) instead of ('the word',)" in difference for difference in differences)


def test_a_version_whose_graph_tokenizes_unlike_the_gateway_is_refused_with_the_reason(manifest):
    """The start-up comparison of the two, on every golden text."""

    async def scenario():
        backend = ScriptedBackend()
        await backend.start()

        async def predict(signature, inputs):
            outputs = await _predict_with(backend, signature, inputs)
            if signature == "describe":
                outputs["manifest"][0] = manifest.to_json().encode()
            if signature == "tokenize" and spoil:
                outputs["ids"][1, 0] += 1
            return outputs

        return await certificate.examine(predict, at_most(1))

    spoil = False
    assert asyncio.run(scenario()) == (manifest, tiny_tokenizer())
    spoil = True
    with pytest.raises(
        BackendFailed, match=rf"fails its certificate: the graph's tokenizer, case '{TEXTS[1]}': source ids"
    ):
        asyncio.run(scenario())


@pytest.mark.parametrize("uncalled", [(), ("generate", "score", "detokenize")])
def test_every_signature_that_will_be_called_has_had_its_first_call(manifest, uncalled):
    asked = set()

    async def scenario():
        backend = ScriptedBackend()
        await backend.start()

        async def predict(signature, inputs):
            asked.add(signature)
            outputs = await _predict_with(backend, signature, inputs)
            if signature == "describe":
                outputs["manifest"][0] = manifest.to_json().encode()
            return outputs

        await certificate.examine(predict, at_most(3), uncalled)

    asyncio.run(scenario())
    assert asked == manifest.signatures.keys() - set(uncalled)


def test_cases_run_in_one_batch_for_each_beam_size(manifest):
    batches = certificate.batches(manifest.certificate.cases)
    assert [[case.name for case in batch] for batch in batches] == [[TEXTS[0], TEXTS[2]], [TEXTS[1], TEXTS[3]]]
    inputs = certificate.option_inputs(batches[1])
    specs = SIGNATURES["generate_ids"].inputs
    assert {name: array.dtype.name for name, array in inputs.items()} == {
        name: specs[name].dtype for name in specs if not name.startswith("source_")
    }
    assert inputs["beam_size"].tolist() == [4, 4]
    assert inputs["prefix_lengths"].tolist() == [0, 1]


def test_each_beam_size_is_warmed_up_for_its_own_batches(manifest):
    warm_ups = []

    async def scenario():
        backend = ScriptedBackend()
        await backend.start()

        async def predict(signature, inputs):
            if signature == "generate_ids" and set(inputs["max_new_tokens"].tolist()) == {certificate.WARM_UP_TOKENS}:
                warm_ups.append((inputs["beam_size"][0], len(inputs["beam_size"])))
            outputs = await _predict_with(backend, signature, inputs)
            if signature == "describe":
                outputs["manifest"][0] = manifest.to_json().encode()
            return outputs

        await certificate.examine(predict, lambda found, beam_size: {1: 3, 4: 2}[beam_size] + (found != manifest))

    asyncio.run(scenario())
    assert warm_ups == [(1, 1), (1, 3), (4, 1), (4, 2)]
