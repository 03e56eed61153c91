"""Seeds and stop strings from request to answer, on the scripted backend."""

from __future__ import annotations

import asyncio
import random

from service.engine import Engine
from service.engine.engine import DRAWN_SEEDS
from service.generation import FinishReason, Generation
from tests.support.running_engine import generate, run

TEXT = "the word is no echo 말길 좋다 said one so that you who"


def texts(answer: Generation) -> list[list[str]]:
    return [[each.text for each in output.hypotheses] for output in answer.outputs]


def test_equal_texts_of_a_request_are_sampled_apart_and_come_again_alone_by_their_seeds() -> None:
    async def test(engine: Engine) -> None:
        answer = await generate(engine, TEXT, TEXT, TEXT, do_sample=True, num_hypotheses=2, seed=40)
        assert [output.seed for output in answer.outputs] == [40, 41, 42]
        assert len({tuple(each) for each in texts(answer)}) == 3
        for output in answer.outputs:
            alone = await generate(engine, TEXT, do_sample=True, num_hypotheses=2, seed=output.seed)
            assert alone.outputs == (output,)

    run(test)


def test_a_seed_that_is_missing_is_drawn_and_told() -> None:
    async def test(engine: Engine) -> None:
        first, second = [await generate(engine, TEXT, TEXT, do_sample=True) for _ in range(2)]
        seeds = [output.seed for answer in (first, second) for output in answer.outputs]
        assert all(seed is not None and 0 <= seed < 2**53 for seed in seeds)
        assert seeds[1] == seeds[0] + 1
        assert len(set(seeds)) == 4
        again = await generate(engine, TEXT, TEXT, do_sample=True, seed=seeds[0])
        assert again.outputs == first.outputs

    run(test)


def test_no_drawn_seed_is_beyond_the_integers_of_javascript() -> None:
    class Highest(random.Random):
        def randrange(self, stop: int) -> int:
            return stop - 1

    async def test(engine: Engine) -> None:
        answer = await generate(engine, *["no"] * 5, do_sample=True)
        assert answer.outputs[-1].seed == DRAWN_SEEDS - 2
        assert DRAWN_SEEDS == 2**53

    run(test, chance=Highest())


def test_without_sampling_a_seed_changes_and_tells_nothing() -> None:
    async def test(engine: Engine) -> None:
        plain, seeded = [await generate(engine, TEXT, seed=seed) for seed in (None, 7)]
        assert plain.outputs == seeded.outputs
        assert seeded.outputs[0].seed is None
        assert seeded.outputs[0].warnings == ()

    run(test)


def test_a_sample_is_the_same_in_any_batch() -> None:
    async def test(engine: Engine) -> None:
        options = [{"do_sample": True, "seed": seed, "top_k": seed % 3} for seed in range(20)]
        together = await asyncio.gather(*(generate(engine, TEXT, **each) for each in options))
        alone = [await generate(engine, TEXT, **each) for each in options]
        assert [answer.outputs for answer in together] == [answer.outputs for answer in alone]
        assert len({answer.outputs[0].hypotheses[0].text for answer in alone}) > 5

    run(test)


def test_a_stop_string_cuts_every_hypothesis_by_itself() -> None:
    async def test(engine: Engine) -> None:
        answer = await generate(engine, "the word no", beam_size=3, num_hypotheses=3, stop=("word",), details=True)
        first, second, third = answer.outputs[0].hypotheses
        assert [first.text, second.text] == ["the ", ""]
        assert first.finish_reason is second.finish_reason is FinishReason.STOP_SEQUENCE
        assert "word" not in third.text
        for each in (first, second, third):
            assert each.tokens is not None
            assert len(each.tokens) == each.generated_tokens
            assert sum(token.log_prob for token in each.tokens) == each.score

    telemetry = run(test)
    labels = {"model_name": "echo", "finished_reason": "stop_sequence"}
    assert telemetry.registry.get_sample_value("malgil_request_success_total", labels) == 1


def test_whoever_decodes_a_text_stops_alike() -> None:
    outputs = []
    options = {"prefix": "the", "stop": ("다", "?"), "details": True}

    async def test(engine: Engine) -> None:
        outputs.append((await generate(engine, "the word 좋다 the", "the no", **options)).outputs)

    for tokenize in ("gateway", "graph"):
        run(test, tokenize=tokenize)
    by_gateway, by_graph = outputs
    assert by_gateway == by_graph
    assert [output.hypotheses[0].text for output in by_gateway] == ["the word 좋", "the no"]
