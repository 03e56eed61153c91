"""Other engines behind FastAPI: ``POST /v1/generate`` takes a text with options and answers a text, as ours does.

    python -m benchmarks.peers.serving SERVER MODEL TOKENIZER [OPTION=VALUE ...]

SERVER is a function below, and OPTION one of its own. On its output it says the port that it listens on, once its model
is loaded.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentencepiece import SentencePieceProcessor

from benchmarks.peers.micro_batches import MicroBatcher
from service.settings import usable_cores

END = "</s>"


class Parameters(BaseModel):
    """Of ``POST /v1/generate`` those that the benchmark uses."""

    beam_size: int = 1
    max_new_tokens: int = 128
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0


class Request(BaseModel):
    """A body."""

    inputs: str
    parameters: Parameters = Parameters()


Route = Callable[[Request], Any]
"""A function for a thread of FastAPI's, or a coroutine function."""


def ctranslate2_documented(folder: str, tokenizer: SentencePieceProcessor) -> Route:
    """As the documentation's first examples are: a Translator as it comes, a call for each request."""
    from ctranslate2 import Translator  # noqa: PLC0415

    translator = Translator(folder, device="cpu", compute_type="int8")

    def generate(request: Request) -> dict[str, Any]:
        pieces = [*tokenizer.encode(request.inputs, out_type=str), END]
        (result,) = translator.translate_batch([pieces], **_translation_options(request.parameters))
        return _answer(tokenizer.decode(result.hypotheses[0]))

    return generate


def ctranslate2_batched(
    folder: str, tokenizer: SentencePieceProcessor, window_ms: float = 0.0, max_batch_tokens: float = 1024
) -> Route:
    """What was measured to be its best here: a translation of one thread on each core, and micro-batches.

    A call has one set of options. Where only the bound of an answer's length differs, and a search keeps one
    hypothesis, requests share a call all the same, and what is too long is cut.
    """
    from ctranslate2 import Translator  # noqa: PLC0415

    cores = usable_cores()
    translator = Translator(folder, device="cpu", compute_type="int8", inter_threads=cores, intra_threads=1)

    def run(key: Hashable, batch: Sequence[tuple[list[str], Parameters]]) -> list[list[str]]:
        most = max((parameters for _, parameters in batch), key=lambda each: each.max_new_tokens)
        results = translator.translate_batch([pieces for pieces, _ in batch], **_translation_options(most))
        return [
            result.hypotheses[0][: parameters.max_new_tokens]
            for result, (_, parameters) in zip(results, batch, strict=True)
        ]

    batcher = MicroBatcher(run, workers=cores, max_tokens=max_batch_tokens, window_s=window_ms / 1000)

    async def generate(request: Request) -> dict[str, Any]:
        pieces, parameters = [*tokenizer.encode(request.inputs, out_type=str), END], request.parameters
        shared = {"max_new_tokens"} if parameters.beam_size == 1 else set()
        key = tuple(parameters.model_dump(exclude=shared).items())
        tokens = parameters.beam_size * len(pieces)
        return _answer(tokenizer.decode(await batcher.submit(key, (pieces, parameters), tokens)))

    return generate


def hugging_face(folder: str, tokenizer: SentencePieceProcessor) -> Route:
    """``generate`` in float32 on a pool of threads: a request each, and one thread within each for every core."""
    import torch  # noqa: PLC0415

    from benchmarks.peers.to_hugging_face import load_hugging_face  # noqa: PLC0415

    torch.set_num_threads(1)
    model: Any = load_hugging_face(folder)
    pool = ThreadPoolExecutor(usable_cores())
    end = model.generation_config.eos_token_id

    def run(request: Request) -> str:
        ids = torch.tensor([[*tokenizer.encode(request.inputs), end]])
        asked = request.parameters
        sampling = {"temperature": asked.temperature, "top_k": asked.top_k} if asked.do_sample else {}
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                num_beams=asked.beam_size,
                min_new_tokens=asked.min_new_tokens or None,
                max_new_tokens=asked.max_new_tokens,
                do_sample=asked.do_sample,
                **sampling,
            )
        return tokenizer.decode([index for index in output[0, 1:].tolist() if index != end])

    async def generate(request: Request) -> dict[str, Any]:
        return _answer(await asyncio.get_running_loop().run_in_executor(pool, run, request))

    return generate


SERVERS: dict[str, Callable[..., Route]] = {
    function.__name__: function for function in (ctranslate2_documented, ctranslate2_batched, hugging_face)
}


def _translation_options(parameters: Parameters) -> dict[str, Any]:
    options: dict[str, Any] = {
        "beam_size": parameters.beam_size,
        "max_decoding_length": parameters.max_new_tokens,
        "min_decoding_length": parameters.min_new_tokens,
    }
    if parameters.do_sample:
        options |= {"sampling_topk": parameters.top_k, "sampling_temperature": parameters.temperature}
    return options


def _answer(text: str) -> dict[str, Any]:
    return {"outputs": [{"generated_text": text}]}


def make_app(route: Route) -> FastAPI:
    """``route`` behind the path that ours answers on."""
    app = FastAPI()
    app.post("/v1/generate")(route)
    return app


async def serve(app: FastAPI) -> None:
    """With uvicorn, as ours is: httptools under it, and no line for a request."""
    # The protocol is named, as ours does: else asyncio leaves Nagle's algorithm on.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
        await uvicorn.Server(config).serve([listener])


def main() -> None:
    """Serve until SIGTERM."""
    server, folder, tokenizer, *given = sys.argv[1:]
    options = {name: float(value) for name, _, value in (option.partition("=") for option in given)}
    asyncio.run(serve(make_app(SERVERS[server](folder, SentencePieceProcessor(model_file=tokenizer), **options))))


if __name__ == "__main__":
    main()
