from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_export.contract import SIGNATURES, FinishReason, Manifest, sha256
from service.backend import Arrays
from service.backends.scripted import ScriptedBackend
from service.backends.signatures import check_outputs
from service.batching import AdmittedRow
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


@pytest.mark.parametrize(
    ("signature", "inputs"),
    [
        ("generate_ids", batch_inputs([make_row(4), make_row(3)])),
        ("generate", batch_inputs([make_row(text="the word"), make_row(text="no")])),
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
        source_ids = np.array([*ids[:length], 3], np.int32)
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
