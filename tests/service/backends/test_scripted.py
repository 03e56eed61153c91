from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_export.contract import SIGNATURES, FinishReason, Manifest, sha256
from service.backend import Arrays
from service.backends.scripted import ScriptedBackend
from service.batching.rows import batch_inputs
from service.errors import BackendFailed, DeadlineExceeded, ModelNotFound
from tests.support.rows import make_row


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


def test_answers_have_the_contracts_names_and_types() -> None:
    outputs = predict(batch_inputs([make_row(4), make_row(3)]))
    specs = SIGNATURES["generate_ids"].outputs
    assert {name: array.dtype.name for name, array in outputs.items()} == {
        name: spec.dtype for name, spec in specs.items()
    }


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
    with pytest.raises(BackendFailed, match=option):
        predict(inputs)


def test_unlike_beam_sizes_are_refused() -> None:
    with pytest.raises(BackendFailed, match="beam sizes"):
        predict(batch_inputs([make_row(beam_size=1), make_row(beam_size=2)]))


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
