"""A request with every option at once in one batch with 31 others, by real graphs: each as if alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from service.bootstrap import running_engine
from service.engine import Engine
from service.generation import GenerationOptions, RowOutput
from service.settings import Settings
from service.telemetry import Telemetry
from service.validation import parse_generate
from service.validation.options import PARAMETERS
from tests.support.tiny_models import CORPUS, LIMITS

ROWS = 32
MODELS = ("tiny-transformer", "tiny-rnn")
WORDS = [word for text in CORPUS for word in text.split()]
EVERY = {
    "num_hypotheses": 3,
    "max_new_tokens": 12,
    "min_new_tokens": 3,
    "length_penalty": 0.7,
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 2,
    "disable_unk": True,
    "prefix": "the",
    "stop": ["a", "。"],
    "truncate": True,
    "details": True,
}
OF_SAMPLING = {"do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 2**62 + 1}
OF_BEAMS = {"beam_size": 4}


def other(chance: random.Random, all_at_once: Mapping[str, Any]) -> dict[str, Any]:
    """Some of the options, with other values; all rows of a batch have one beam size."""
    options: dict[str, Any] = {
        "num_hypotheses": chance.randint(1, all_at_once.get("beam_size", 1)),
        "max_new_tokens": chance.randint(8, 14),
        "min_new_tokens": chance.randint(0, 4),
        "length_penalty": chance.choice([0.0, 1.0]),
        "repetition_penalty": chance.choice([0.8, 1.0, 1.5]),
        "no_repeat_ngram_size": chance.choice([0, 0, 1, 3]),
        "disable_unk": chance.random() < 0.5,
        "prefix": chance.choice(["", "a cat", "오늘"]),
        "stop": chance.choice([[], ["t"], ["는", " "]]),
        "truncate": True,
        "details": chance.random() < 0.5,
    }
    if "beam_size" in all_at_once:
        return options | {"beam_size": all_at_once["beam_size"]}
    if chance.random() < 0.5:
        return options | {
            "do_sample": True,
            "num_hypotheses": chance.randint(1, 4),
            "temperature": chance.choice([0.5, 1.0, 2.0]),
            "top_k": chance.choice([0, 3]),
            "top_p": chance.choice([0.5, 1.0]),
            "seed": chance.randrange(100),
        }
    return options


@pytest.mark.parametrize("all_at_once", [EVERY | OF_SAMPLING, EVERY | OF_BEAMS], ids=["sampling", "beams"])
def test_every_option_is_at_once(all_at_once: Mapping[str, Any]) -> None:
    assert all_at_once.keys() == set(PARAMETERS) - (OF_BEAMS if "do_sample" in all_at_once else OF_SAMPLING).keys()
    defaults = asdict(GenerationOptions())
    assert [name for name, value in all_at_once.items() if value == defaults[name]] == []


def test_each_row_of_a_batch_is_answered_as_if_alone(artifact_root: Path) -> None:
    settings = Settings(
        models_folder=artifact_root, concurrent_runs=1, max_batch_tokens=100_000, tokenizer_check_share=0
    )
    telemetry = Telemetry()

    async def ask(engine: Engine, body: Mapping[str, Any]) -> RowOutput:
        answer = await engine.generate(parse_generate(body, engine.resolve, settings), request_id="test")
        return answer.outputs[0]

    def batches(model: str) -> tuple[float | None, float | None]:
        value = telemetry.registry.get_sample_value
        labels = {"model_name": model}
        return value("malgil_batch_size_count", labels), value("malgil_batch_size_sum", labels)

    async def main() -> None:
        chance = random.Random(3)
        async with running_engine(settings, telemetry) as engine:
            for model in MODELS:
                for all_at_once in (EVERY | OF_SAMPLING, EVERY | OF_BEAMS):
                    options = [all_at_once, *(other(chance, all_at_once) for _ in range(ROWS - 1))]
                    bodies = [{"model": model, "inputs": text(chance), "parameters": each} for each in options]
                    count, size = (value or 0 for value in batches(model))
                    together = await asyncio.gather(*(ask(engine, body) for body in bodies))
                    assert batches(model) == (count + 1, size + ROWS), "they ran as one batch"
                    for body, output in zip(bodies, together, strict=True):
                        assert_same(output, await ask(engine, body))
                    assert len({output.hypotheses[0].text for output in together}) > ROWS / 2
                    assert "input truncated by" in together[0].warnings[0]
                    assert len(together[0].hypotheses) == 3

    asyncio.run(main())


def text(chance: random.Random) -> str:
    """As long as the model reads, or a little longer: rows of like cost share a batch."""
    return " ".join(chance.choices(WORDS, k=LIMITS["max_source_tokens"]))


def assert_same(together: RowOutput, alone: RowOutput) -> None:
    assert (together.input_tokens, together.warnings, together.seed) == (alone.input_tokens, alone.warnings, alone.seed)
    assert len(together.hypotheses) == len(alone.hypotheses)
    for one, other in zip(together.hypotheses, alone.hypotheses, strict=True):
        assert (one.text, one.finish_reason, one.generated_tokens) == (
            other.text,
            other.finish_reason,
            other.generated_tokens,
        )
        assert [token.id for token in one.tokens or ()] == [token.id for token in other.tokens or ()]
        scores = [one.score, one.normalized_score, *(token.log_prob for token in one.tokens or ())]
        expected = [other.score, other.normalized_score, *(token.log_prob for token in other.tokens or ())]
        assert scores == pytest.approx(expected, rel=3e-5, abs=1e-4)
