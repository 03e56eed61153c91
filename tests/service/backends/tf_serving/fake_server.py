"""A TF Serving without TensorFlow in this process: real gRPC, our messages, the script's answers, faults on request."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

import grpc
import grpc.aio
import numpy as np

from model_export.contract import Certificate, GoldenCase, Manifest
from service import certificate
from service.backend import Arrays, VersionState
from service.backends.scripted import ScriptedBackend, scripted_manifest, tiny_tokenizer
from service.backends.tf_serving import TfServingBackend, wire
from service.backends.tf_serving.proto import tf_serving_pb2 as messages
from service.errors import BackendFailed
from service.settings import Settings
from service.tokenization import SentencePieceTokenizer
from tests.support.rows import at_most

State = messages.ModelVersionStatus
Fault = Callable[["Call"], "tuple[grpc.StatusCode, str] | None"]


@dataclass(frozen=True)
class Call:
    """One call as it came."""

    method: str  # "Predict" or "GetModelStatus"
    model: str
    version: int = 0
    signature: str = ""
    rows: int = 0
    seconds_left: float = 0.0


@dataclass
class FakeVersion:
    """A version of a model, as far as it shows."""

    manifest: Manifest
    state: int = State.AVAILABLE
    error: str = ""


@functools.cache
def certified_manifest(name: str = "echo") -> Manifest:
    """The script's manifest with a certificate: two cases of each of two beam sizes, answered by the script itself."""
    tokenizer = SentencePieceTokenizer(tiny_tokenizer())
    cases = []
    for text, options in (("the word", {}), ("말길 é", {}), ("it is", {"beam_size": 2}), ("yes", {"beam_size": 2})):
        source = (*tokenizer.encode([text])[0], 3)
        case = GoldenCase(text, text, source, options, (), (), (), (), ())
        ids = np.array([source], np.int32)
        inputs = {"source_ids": ids, "source_lengths": np.array([len(source)], np.int32)}
        outputs = asyncio.run(_ask_the_script(inputs | certificate.option_inputs([case])))
        answer = tuple(outputs["ids"][0, 0].tolist())
        scores, reasons = tuple(outputs["scores"][0].tolist()), tuple(outputs["finish_reasons"][0].tolist())
        sentences = tuple(tokenizer.decode([answer]))
        cases.append(replace(case, ids=(answer,), sentences=sentences, scores=scores, finish_reasons=reasons))
    return replace(scripted_manifest(name), certificate=Certificate(1e-3, 1e-3, tuple(cases)))


async def _ask_the_script(inputs: Arrays) -> Arrays:
    backend = ScriptedBackend()
    await backend.start()
    return await backend.predict("echo", 1, "generate_ids", inputs)


def uncertified(manifest: Manifest) -> Manifest:
    """A manifest whose certificate the script does not keep."""
    (first, *others) = manifest.certificate.cases
    wrong = replace(first, scores=(1.0,))
    return replace(manifest, certificate=replace(manifest.certificate, cases=(wrong, *others)))


def echo(*versions: int) -> dict[tuple[str, int], FakeVersion]:
    """Good versions of the model ``echo``."""
    return {("echo", version): FakeVersion(certified_manifest()) for version in versions}


@dataclass
class FakeTfServing:
    """The server; change ``versions``, ``fault`` and ``delay_s`` while it runs."""

    versions: dict[tuple[str, int], FakeVersion] = field(default_factory=lambda: echo(1))
    fault: Fault = lambda call: None
    change: Callable[[dict[str, np.ndarray]], object] = lambda outputs: None
    delay_s: float = 0.0
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    cancelled: int = 0
    running: int = 0
    most_running: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self, credentials: grpc.ServerCredentials | None = None) -> None:
        """Listen, on the port it had before if it had one."""
        self._script = ScriptedBackend(slots=64)
        await self._script.start()
        self._server = grpc.aio.server()
        predict = {"Predict": grpc.unary_unary_rpc_method_handler(self._predict)}
        status = {"GetModelStatus": grpc.unary_unary_rpc_method_handler(self._get_model_status)}
        for service, methods in (("PredictionService", predict), ("ModelService", status)):
            handler = grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", methods)
            self._server.add_generic_rpc_handlers((handler,))
        if credentials is None:
            self.port = self._server.add_insecure_port(self.address)
        else:
            self.port = self._server.add_secure_port(self.address, credentials)
        await self._server.start()

    async def stop(self) -> None:
        """Die at once, as TF Serving does."""
        await self._server.stop(None)

    def count(self, method: str, signature: str = "") -> int:
        """Calls so far."""
        return len([call for call in self.calls if (call.method, call.signature) == (method, signature)])

    async def _answer(self, call: Call, context: grpc.aio.ServicerContext) -> None:
        self.calls.append(call)
        fault = self.fault(call)
        if fault is not None:
            await context.abort(*fault)

    async def _get_model_status(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        name = messages.GetModelStatusRequest.FromString(request).model_spec.name
        await self._answer(Call("GetModelStatus", name), context)
        found = [(version, each) for (model, version), each in self.versions.items() if model == name]
        if not found:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")
        response = messages.GetModelStatusResponse()
        for version, each in found:
            status = response.model_version_status.add(version=version, state=each.state)
            status.status.error_code = 13 if each.error else 0
            status.status.error_message = each.error
        return response.SerializeToString()

    async def _predict(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        request = messages.PredictRequest.FromString(data)
        spec = request.model_spec
        inputs = wire.predict_outputs(messages.PredictResponse(outputs=request.inputs).SerializeToString())
        rows = len(next(iter(inputs.values())))
        left_s = context.time_remaining() or 0.0
        call = Call("Predict", spec.name, spec.version.value, spec.signature_name, rows, left_s)
        await self._answer(call, context)
        found = self.versions.get((spec.name, spec.version.value))
        if found is None or found.state != State.AVAILABLE:
            message = f"Servable not found for request: Specific({spec.name}, {spec.version.value})"
            await context.abort(grpc.StatusCode.NOT_FOUND, message)
        if spec.signature_name == "describe":
            outputs = {"manifest": _text(found.manifest.to_json().encode()), "tokenizer": _text(tiny_tokenizer())}
        else:
            outputs = dict(await self._run(spec.signature_name, inputs, context))
        self.change(outputs)
        answered = messages.PredictRequest.FromString(wire.predict_request("", 0, "", outputs)).inputs
        return messages.PredictResponse(outputs=answered).SerializeToString()

    async def _run(self, signature: str, inputs: Arrays, context: grpc.aio.ServicerContext) -> Mapping[str, np.ndarray]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.delay_s)
            return await self._script.predict("echo", 1, signature, inputs)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        except BackendFailed as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            raise
        finally:
            self.running -= 1


def _text(value: bytes) -> np.ndarray:
    return np.array([value], dtype=object)


def settings_for(*servers: FakeTfServing, **settings: object) -> Settings:
    """What makes a gateway use them, and look often."""
    addresses = ",".join(server.address for server in servers)
    given = {"tf_serving_addresses": addresses, "tf_serving_models": "echo", "version_poll_s": 0.05}
    return Settings(**{"backend": "tf-serving", "max_batch_rows": 4, **given, **settings})


@asynccontextmanager
async def running(*servers: FakeTfServing, **settings: object) -> AsyncIterator[TfServingBackend]:
    """A started backend on started servers; all are gone afterwards."""
    for server in servers:
        await server.start()
    backend = TfServingBackend(settings_for(*servers, **settings), at_most(4))
    try:
        await backend.start()
        yield backend
    finally:
        await backend.close()
        for server in servers:
            await server.stop()


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for it, looking often."""
    end = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < end, "it did not come about"
        await asyncio.sleep(0.01)


def states(backend: TfServingBackend) -> dict[int, VersionState]:
    """The state of each version of ``echo``."""
    return {each.version: each.state for each in backend.versions() if each.name == "echo"}


@contextmanager
def in_a_thread(server: FakeTfServing) -> Iterator[FakeTfServing]:
    """The server in a loop of its own, for a gateway that is another process."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
