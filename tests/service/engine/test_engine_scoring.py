"""Scores from request to answer, on the scripted backend."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from service.backend import Arrays
from service.backends.scripted import ScriptedBackend
from service.engine import Engine
from service.errors import BackendFailed, DeadlineExceeded, Draining, InvalidRequest, Overloaded
from service.generation import ScoreRequest
from tests.support.running_engine import generate, run, score


def test_targets_are_scored_in_order() -> None:
    async def test(engine: Engine) -> None:
        answer = await score(engine, ("the word", "the word"), ("말길 🦜", "no"), ("no", ""))
        assert (answer.model, answer.version) == ("echo", 1)
        echoed, other, empty = answer.outputs
        assert echoed.score > other.score / other.target_tokens * echoed.target_tokens
        assert echoed.perplexity == pytest.approx(math.exp(-echoed.score / echoed.target_tokens))
        assert (echoed.tokens, echoed.attention, echoed.warnings) == (None, None, ())
        assert (empty.target_tokens, len(empty.warnings)) == (1, 1)
        assert 0 <= answer.timings.queue_s <= answer.timings.total_s
        assert 0 < answer.timings.inference_s <= answer.timings.total_s

    run(test)


def test_what_was_generated_is_scored_as_it_was_told() -> None:
    async def test(engine: Engine) -> None:
        text = "the word 말길 🦜 no"
        options = {"beam_size": 4, "num_hypotheses": 4, "details": True}
        (generated,) = (await generate(engine, text, **options)).outputs
        targets = [each.text for each in generated.hypotheses]
        scored = (await score(engine, *((text, target) for target in targets), details=True)).outputs
        assert generated.hypotheses[0].score == scored[0].score
        same_tokens = 0
        for hypothesis, target in zip(generated.hypotheses, scored, strict=True):
            if [each.id for each in hypothesis.tokens] == [each.id for each in target.tokens]:
                same_tokens += 1
                assert (hypothesis.score, hypothesis.perplexity) == (target.score, target.perplexity)
        assert same_tokens > 1
        assert [each.rank for each in scored[0].tokens] == [0] * scored[0].target_tokens

    run(test)


def test_many_requests_at_once_get_what_each_gets_alone() -> None:
    words = ["the", "word", "말길", "🦜", "no one said so"]
    pairs = [(" ".join(words[first:]), words[second]) for first in range(5) for second in range(5)]
    sizes: list[int] = []

    async def test(engine: Engine) -> None:
        together = await asyncio.gather(*(score(engine, pair, details=True) for pair in pairs))
        assert max(sizes) > 1
        for pair, answer in zip(pairs, together, strict=True):
            assert (await score(engine, pair, details=True)).outputs == answer.outputs

    def interrupt(inputs: Arrays) -> None:
        sizes.append(len(inputs["source_ids"]))

    run(test, ScriptedBackend(interrupt=interrupt))


def test_attention_is_paid_to_the_pieces_of_the_text() -> None:
    async def test(engine: Engine) -> None:
        aligned, plain = [
            (await score(engine, ("the word", "word the"), align=align)).outputs[0] for align in (True, False)
        ]
        assert aligned.input_pieces == ("▁the", "▁word", "</s>")
        assert aligned.attention == ((0, 1, 0), (1, 0, 0), (0, 0, 1))
        assert replace(aligned, input_pieces=None, attention=None) == plain

    run(test)


def test_whoever_tokenizes_scores_are_the_same() -> None:
    answers, signatures = [], []

    class Recording(ScriptedBackend):
        async def predict(self, name, version, signature, *arguments):  # type: ignore[no-untyped-def]
            signatures.append(signature)
            return await super().predict(name, version, signature, *arguments)

    async def test(engine: Engine) -> None:
        pairs = ("the word", "no"), ("the " * 600, "the 말길")
        answers.append((await score(engine, *pairs, truncate=True, details=True)).outputs)

    for tokenize in ("gateway", "graph"):
        run(test, Recording(), tokenize=tokenize, tokenizer_check_share=0)
    assert answers[0] == answers[1]
    assert answers[0][1].warnings == ("input truncated by 89 tokens",)
    assert set(signatures) == {"score", "score_ids"}


def test_a_graph_that_counts_other_tokens_is_at_fault() -> None:
    class Miscounting(ScriptedBackend):
        async def predict(self, *arguments, **options):  # type: ignore[no-untyped-def]
            outputs = await super().predict(*arguments, **options)
            return outputs | {"lengths": outputs["lengths"] - 1}

    async def test(engine: Engine) -> None:
        with pytest.raises(BackendFailed, match="the model scored 2 tokens given 3, where 3 given 3 were expected"):
            await score(engine, ("the word", "no"))

    with pytest.raises(AssertionError):  # no has more tokens than one
        run(test, Miscounting())


def test_scoring_is_measured() -> None:
    async def test(engine: Engine) -> None:
        answer = await score(engine, ("the word", "no"), ("no", "the"))
        counted.append(sum(output.target_tokens for output in answer.outputs))
        with pytest.raises(InvalidRequest):
            await score(engine, ("the " * 600, "no"))

    counted: list[int] = []
    value = run(test).registry.get_sample_value
    model = {"model_name": "echo"}
    assert value("malgil_scored_targets_total", model) == 2
    assert value("malgil_scored_tokens_total", model) == counted[0]
    assert value("malgil_prompt_tokens_total", model) == 3 + value("malgil_scored_tokens_total", model) - 2
    for outcome in ("answered", "validation"):
        assert value("malgil_e2e_score_latency_seconds_count", model | {"outcome": outcome}) == 1
    assert value("malgil_e2e_request_latency_seconds_count", model | {"outcome": "answered"}) is None
    assert value("malgil_request_queue_time_seconds_count", model) == 2


def test_deadlines_queues_and_draining_hold_for_scoring() -> None:
    async def test(engine: Engine) -> None:
        with pytest.raises(DeadlineExceeded):
            await score(engine, ("no", "no"), timeout_s=0.02)
        waiting = [score(engine, ("no", "no")) for _ in range(8)]
        done, _ = await asyncio.wait(waiting)
        assert {type(task.exception()) for task in done} == {type(None), Overloaded}
        left = score(engine, ("no", "no"))
        await asyncio.sleep(0.01)
        assert not await engine.drain(0.01)
        for task in (left, score(engine, ("no", "no"))):
            with pytest.raises(Draining):
                await task

    run(test, ScriptedBackend(slots=1, delay_s=0.05), queue_rows=2, max_inputs=2, max_batch_rows=1)


def test_another_version_answers_for_one_that_has_gone_if_it_can_score() -> None:
    backend = ScriptedBackend({"echo": (1, 2)})

    async def test(engine: Engine) -> None:
        _, oldest = backend.versions()
        request = ScoreRequest("echo", 2, ("no",), ("no",))
        backend.set_versions([oldest])
        assert (await engine.score(request, request_id="test")).version == 1
        left = {name: each for name, each in oldest.manifest.signatures.items() if name != "score_ids"}
        backend.set_versions([replace(oldest, manifest=replace(oldest.manifest, signatures=left))])
        with pytest.raises(InvalidRequest, match="exported before there was scoring"):
            await engine.score(request, request_id="test")

    run(test, backend)


def test_texts_that_are_scored_are_compared_too() -> None:
    telemetry = run_with_check()
    assert telemetry.registry.get_sample_value("malgil_tokenizer_mismatch_total", {"model_name": "echo"}) == 1


def run_with_check():  # type: ignore[no-untyped-def]
    class Differing(ScriptedBackend):
        async def predict(self, name, version, signature, *arguments, **options):  # type: ignore[no-untyped-def]
            outputs = await super().predict(name, version, signature, *arguments, **options)
            return outputs | {"ids": outputs["ids"] + 1} if signature == "tokenize" else outputs

    async def test(engine: Engine) -> None:
        await score(engine, ("the word", "no"))
        await asyncio.sleep(0.05)

    return run(test, Differing(), tokenizer_check_share=1.0)
