"""gRPC on the scripted backend: answers, codes, metadata, deadlines, hang-ups, limits of messages and connections."""

import asyncio
import socket
import struct
import threading
import time

import grpc
import pytest

from service.backends.scripted import ScriptedBackend
from service.engine.off_loop import INLINE_CHARACTERS
from service.settings import Settings
from service.transport import rpc_convert
from service.transport.proto import malgil_v1_pb2 as messages
from service.transport.rpc import SERVICE, RpcServer, _options
from tests.support.rpc_client import RESPONSES, rpc_server

UNARY = {
    "Generate": messages.GenerateRequest(inputs=["the word"]),
    "Score": messages.ScoreRequest(inputs=["the word"], targets=["no"]),
    "Tokenize": messages.TokenizeRequest(inputs=["the word"]),
    "Detokenize": messages.DetokenizeRequest(ids=[{"ids": [5, 6]}]),
    "ListModels": messages.ListModelsRequest(),
    "GetModel": messages.GetModelRequest(name="echo"),
}
"""A good request of every method."""


def ask(method, message, backend=None, settings=None, start=True, **options):
    """The answer of a new server, or its error."""

    async def scenario():
        async with rpc_server(backend, start=start, **(settings or {})) as server:
            try:
                return await server.call(method, message, **options)
            except grpc.aio.AioRpcError as error:
                return error

    return asyncio.run(scenario())


# --- answers ----------------------------------------------------------------------------------------------------------


def test_every_method_of_the_service_answers():
    assert set(UNARY) == set(messages.DESCRIPTOR.services_by_name["GenerationService"].methods_by_name)

    async def scenario():
        async with rpc_server() as server:
            return {method: await server.call(method, message) for method, message in UNARY.items()}

    answers = asyncio.run(scenario())
    (output,) = answers["Generate"].outputs
    assert output.generated_text == "the word"
    assert output.finish_reason == "eos_token"
    assert (answers["Generate"].model_name, answers["Generate"].model_version) == ("echo", 1)
    (target,) = answers["Score"].outputs
    assert target.score < 0 < target.target_tokens
    (tokens,) = answers["Tokenize"].outputs
    assert len(tokens.ids) == len(tokens.pieces) > 0
    assert len(answers["Detokenize"].texts) == 1
    assert answers["ListModels"].models == [answers["GetModel"]]
    assert answers["GetModel"].versions[0].limits.max_beam_size == 8
    for method, answer in answers.items():
        assert type(answer) is RESPONSES[method]


def test_texts_are_answered_in_their_order_with_what_was_asked():
    request = messages.GenerateRequest(
        inputs=["words", "no two 말길"],
        model="echo",
        version=1,
        parameters={"beam_size": 4, "num_hypotheses": 3, "details": True, "max_new_tokens": 3},
    )
    first, second = ask("Generate", request).outputs
    assert first.generated_text == "words"
    assert second.input_tokens > first.input_tokens
    for hypothesis in second.hypotheses:
        assert len(hypothesis.tokens) == hypothesis.generated_tokens <= 3
    assert len(second.hypotheses) == 3


def test_samples_come_again_by_the_seed_that_is_told():
    text = "the word says no 말길 좋다 who said so"

    async def scenario():
        async with rpc_server() as server:
            drawn = await server.call(
                "Generate", messages.GenerateRequest(inputs=[text] * 2, parameters={"do_sample": True})
            )
            again = [
                await server.call(
                    "Generate",
                    messages.GenerateRequest(inputs=[text], parameters={"do_sample": True, "seed": output.seed}),
                )
                for output in drawn.outputs
            ]
            greedy = await server.call("Generate", messages.GenerateRequest(inputs=[text]))
            return drawn.outputs, [answer.outputs[0] for answer in again], greedy.outputs[0]

    drawn, again, greedy = asyncio.run(scenario())
    assert list(drawn) == again
    assert drawn[1].seed == drawn[0].seed + 1
    assert not greedy.HasField("seed")


def test_a_target_is_scored_by_token_and_aligned():
    request = messages.ScoreRequest(
        inputs=["the word"], targets=["word the"], parameters={"details": True, "align": True}
    )
    (target,) = ask("Score", request).outputs
    assert [token.rank for token in target.tokens] == [1, 1, 0]
    assert target.score == sum(token.log_prob for token in target.tokens)
    assert list(target.input_pieces) == ["▁the", "▁word", "</s>"]
    assert [list(attention.weights) for attention in target.alignment] == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_tokens_make_the_text_again():
    async def scenario():
        async with rpc_server() as server:
            tokens = await server.call("Tokenize", messages.TokenizeRequest(inputs=["the word", "é"]))
            request = messages.DetokenizeRequest(ids=[{"ids": each.ids} for each in tokens.outputs])
            return await server.call("Detokenize", request)

    assert asyncio.run(scenario()).texts == ["the word", "é"]


def test_a_label_is_answered(tmp_path):
    labels = tmp_path / "labels.yaml"
    labels.write_text("echo: {stable: 1}", "utf-8")
    backend = ScriptedBackend({"echo": [1, 2]})
    request = messages.GenerateRequest(inputs=["a"], label="stable")
    assert ask("Generate", request, backend, {"labels_file": labels}).model_version == 1


def test_a_large_message_is_read_and_written_in_another_thread(monkeypatch):
    threads = []

    def watched(function):
        def wrapper(*arguments):
            threads.append(threading.get_ident())
            return function(*arguments)

        return wrapper

    for name in ("fields", "generation"):
        monkeypatch.setattr(rpc_convert, name, watched(getattr(rpc_convert, name)))
    small = messages.GenerateRequest(inputs=["a"])
    large = messages.GenerateRequest(
        inputs=["the word says no " * 20] * 40,
        parameters={"beam_size": 4, "num_hypotheses": 4, "details": True},
    )
    assert large.ByteSize() > INLINE_CHARACTERS
    assert len(ask("Generate", small).outputs) == 1
    assert len(ask("Generate", large).outputs) == 40
    assert [thread == threading.get_ident() for thread in threads] == [True, True, False, False]


# --- metadata and errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Generate", "Score"])
def test_the_id_and_the_times_are_told(method):
    async def scenario():
        async with rpc_server(ScriptedBackend(delay_s=0.05)) as server:
            call = server.call(method, UNARY[method], metadata=(("x-request-id", "mine-1"),))
            answer = await call
            return answer, dict(await call.trailing_metadata())

    answer, told = asyncio.run(scenario())
    assert answer.id == told["x-request-id"] == "mine-1"
    queue, inference, total = (float(told[f"x-{name}-time"]) for name in ("queue", "inference", "total"))
    assert 0 <= queue < 50
    assert 50 <= inference <= total < 5000


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, 'a"b', None])
def test_for_an_unsafe_id_a_new_one_is_made(given):
    metadata = () if given is None else (("x-request-id", given),)
    made = ask("Generate", UNARY["Generate"], metadata=metadata).id
    assert len(made) == 32
    assert int(made, 16)


@pytest.mark.parametrize(
    ("method", "message", "code", "says"),
    [
        ("Generate", b"\xff" * 9, "INVALID_ARGUMENT", "no malgil.v1.GenerateRequest"),
        ("Generate", b"\x0a\x02\xff\xfe", "INVALID_ARGUMENT", "UTF-8"),
        ("Generate", b"", "INVALID_ARGUMENT", "'inputs'"),
        ("Generate", b"\x0a\x01a\x88\x01\x01", "INVALID_ARGUMENT", "no field 17: there are inputs = 1, model = 2"),
        ("Generate", messages.GenerateRequest(inputs=["a\0b"]), "INVALID_ARGUMENT", "NUL"),
        ("Generate", messages.GenerateRequest(inputs=["a"], version=0), "INVALID_ARGUMENT", "'version'"),
        ("Generate", messages.GenerateRequest(inputs=["a"], label="3"), "INVALID_ARGUMENT", "without quotes"),
        ("Generate", messages.GenerateRequest(inputs=["a"], label="stable"), "NOT_FOUND", "no label 'stable'"),
        ("Generate", messages.GenerateRequest(inputs=["a"], version=7), "NOT_FOUND", "no version 7"),
        ("Generate", messages.GenerateRequest(inputs=["a"], model="none"), "NOT_FOUND", "no model 'none'"),
        (
            "Generate",
            messages.GenerateRequest(inputs=["a"], parameters={"beam_size": 0}),
            "INVALID_ARGUMENT",
            "'beam_size' must be an integer from 1 to 8",
        ),
        (
            "Generate",
            messages.GenerateRequest(inputs=["a"], parameters={"length_penalty": float("nan")}),
            "INVALID_ARGUMENT",
            "'length_penalty'",
        ),
        (
            "Generate",
            messages.GenerateRequest(inputs=["a"], parameters={"stop": [""]}),
            "INVALID_ARGUMENT",
            "'stop[0]'",
        ),
        ("Score", b"", "INVALID_ARGUMENT", "'inputs' must be a text"),
        ("Score", messages.ScoreRequest(inputs=["a"]), "INVALID_ARGUMENT", "'targets' must be a text"),
        ("Score", messages.ScoreRequest(inputs=["a"], targets=["b", "c"]), "INVALID_ARGUMENT", "one target for each"),
        ("Score", messages.ScoreRequest(inputs=["a"], targets=["b"], version=7), "NOT_FOUND", "no version 7"),
        ("Score", b"\x38\x01", "INVALID_ARGUMENT", "no field 7: there are inputs = 1, targets = 2"),
        ("Tokenize", b"\x08\x01", "INVALID_ARGUMENT", "a field 1 of another type"),
        ("Tokenize", b"\x48\x01", "INVALID_ARGUMENT", "no field 9: there are inputs = 1"),
        ("Detokenize", messages.DetokenizeRequest(ids=[{"ids": [-1]}]), "INVALID_ARGUMENT", "from 0 to"),
        ("ListModels", b"\x08\x01", "INVALID_ARGUMENT", "no field 1: there are none"),
        ("GetModel", messages.GetModelRequest(), "NOT_FOUND", "ListModels"),
        ("GetModel", messages.GetModelRequest(name="none"), "NOT_FOUND", "ListModels"),
    ],
)
def test_what_is_wrong_is_told(method, message, code, says):
    error = ask(method, message)
    assert error.code().name == code
    assert says in error.details()
    told = dict(error.trailing_metadata())
    assert told["error-type"] == {"INVALID_ARGUMENT": "validation", "NOT_FOUND": "not_found"}[code]
    assert len(told["x-request-id"]) == 32
    assert float(told["x-total-time"]) >= 0


def test_who_comes_too_early_or_too_late_is_told_when_to_come_again():
    async def drained():
        async with rpc_server() as server:
            assert await server.engine.drain(1.0)
            try:
                return await server.call("Generate", UNARY["Generate"])
            except grpc.aio.AioRpcError as error:
                return error

    early, late = ask("Generate", UNARY["Generate"], start=False), asyncio.run(drained())
    assert {early.code(), late.code()} == {grpc.StatusCode.UNAVAILABLE}
    assert "stopping" in late.details()
    assert dict(early.trailing_metadata())["retry-after"] == "1"


def test_a_full_queue_is_overload_with_a_time_to_come_again():
    async def scenario():
        backend = ScriptedBackend(slots=1, delay_s=0.3)
        async with rpc_server(backend, queue_rows=2, max_inputs=2, max_batch_rows=1) as server:
            request = messages.GenerateRequest(inputs=["a", "b"])
            calls = (server.call("Generate", request) for _ in range(4))
            return await asyncio.gather(*calls, return_exceptions=True)

    refused = [each for each in asyncio.run(scenario()) if isinstance(each, grpc.aio.AioRpcError)]
    assert 0 < len(refused) < 4
    for error in refused:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details().endswith(f"try again in {dict(error.trailing_metadata())['retry-after']} s")


def test_messages_up_to_the_limit_are_taken_and_no_larger_ones():
    request = messages.TokenizeRequest(inputs=["a"])
    request.inputs[0] = "a" * (2048 - request.ByteSize())
    assert request.ByteSize() == 2048
    assert ask("Tokenize", request, settings={"max_body_bytes": 2048}).outputs
    request.inputs[0] += "a"
    for compression in (None, grpc.Compression.Gzip):  # what is small on the wire is measured as it is unpacked
        error = ask("Tokenize", request, settings={"max_body_bytes": 2048}, compression=compression)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_answers_may_be_larger_than_requests():
    request = messages.GenerateRequest(
        inputs=["a" * 400] * 2, parameters={"beam_size": 8, "num_hypotheses": 8, "details": True}
    )
    answer = ask("Generate", request, settings={"max_body_bytes": 2048})
    assert answer.ByteSize() > 20_000


def test_another_method_is_unimplemented():
    async def scenario():
        async with rpc_server() as server:
            return await server.channel.unary_unary(f"/{SERVICE}/Nothing")(b"")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(scenario())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# --- deadlines and hang-ups -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Generate", "Score"])
def test_a_passed_deadline_is_answered_by_the_server_itself(monkeypatch, method):
    monkeypatch.setattr("service.transport.rpc.ANSWER_SHARE", 0.5)  # a busy machine may need it
    monkeypatch.setattr("service.transport.rpc.ANSWER_MAX_S", 1.0)
    error = ask(method, UNARY[method], ScriptedBackend(delay_s=10), timeout=2.0)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert dict(error.trailing_metadata())["error-type"] == "timeout"


@pytest.mark.parametrize(("given", "least", "most"), [(8.0, 7.0, 7.77), (0.4, 0.1, 0.39), (None, None, None)])
def test_the_deadline_is_the_engines_but_for_the_way_back(monkeypatch, given, least, most):
    seen = []

    async def scenario():
        async with rpc_server() as server:
            generate = server.engine.generate

            def spy(request, *, timeout_s, **options):
                seen.append(timeout_s)
                return generate(request, timeout_s=timeout_s, **options)

            monkeypatch.setattr(server.engine, "generate", spy)
            await server.call("Generate", UNARY["Generate"], timeout=given)

    asyncio.run(scenario())
    (timeout_s,) = seen
    assert timeout_s is None if given is None else least <= timeout_s <= most


@pytest.mark.parametrize("ends", ["cancelled", "deadline", "hung up"])
def test_what_a_client_no_longer_waits_for_never_runs(ends):
    """One call runs; a second waits, and its client gives up; a third comes after."""
    ran = []

    def watch(inputs):
        lengths = inputs["source_lengths"].tolist()
        ran.extend(row[:length].tolist() for row, length in zip(inputs["source_ids"], lengths, strict=True))

    async def scenario():
        backend = ScriptedBackend(slots=1, delay_s=0.6, interrupt=watch)
        async with rpc_server(backend, max_batch_rows=1) as server:
            first = server.call("Generate", messages.GenerateRequest(inputs=["yes"]))
            await _until(server, b"malgil_num_requests_running 1.0")
            channel = grpc.aio.insecure_channel(server.address)
            waiting = channel.unary_unary(f"/{SERVICE}/Generate")(
                messages.GenerateRequest(inputs=["no"]).SerializeToString(), timeout=0.3 if ends == "deadline" else None
            )
            await _until(server, b"malgil_num_requests_waiting 1.0")
            if ends == "cancelled":
                waiting.cancel()
            elif ends == "hung up":
                await channel.close()
            await _until(server, b"malgil_num_requests_waiting 0.0")
            third = server.call("Generate", messages.GenerateRequest(inputs=["the"]))
            answers = [(await call).outputs[0].generated_text for call in (first, third)]
            await channel.close()
            return answers, server.telemetry.render().decode()

    answers, metrics = asyncio.run(scenario())
    assert answers == ["yes", "the"]
    assert len(ran) == 2
    error_type = "timeout" if ends == "deadline" else "client_closed"
    assert f'malgil_request_failure_total{{error_type="{error_type}"}} 1.0' in metrics


async def _until(server, line):
    """The metrics have ``line``."""
    end = asyncio.get_running_loop().time() + 10
    while line not in server.telemetry.render():
        assert asyncio.get_running_loop().time() < end, line
        await asyncio.sleep(0.005)


# --- connections ------------------------------------------------------------------------------------------------------

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
"""What opens an HTTP/2 connection, with an empty frame of settings."""
PING, GOAWAY = 6, 7


def _frames(port, seconds):
    """Types of the frames that a server sends to a client that never says more."""
    found = []
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(PREFACE)
        stream = connection.makefile("rb")
        try:
            while header := stream.read(9):
                length, kind = struct.unpack(">I", b"\0" + header[:3])[0], header[3]
                stream.read(length)
                found.append(kind)
        except TimeoutError:
            pass
    return found


@pytest.mark.parametrize(
    ("settings", "pinged", "sent_away"),
    [
        ({}, False, False),
        ({"grpc_keepalive_s": 0.2}, True, False),
        ({"grpc_max_connection_age_s": 0.2}, True, True),  # it asks for a sign of life before it closes
    ],
    ids=str,
)
def test_silent_connections_are_asked_for_life_and_old_ones_renewed(settings, pinged, sent_away):
    async def scenario():
        async with rpc_server(**settings) as server:
            return await asyncio.to_thread(_frames, int(server.address.rsplit(":", 1)[1]), 1.0)

    frames = asyncio.run(scenario())
    assert (PING in frames, GOAWAY in frames) == (pinged, sent_away)


@pytest.mark.parametrize(("interval_s", "sent_away"), [(0.02, False), (10, True)])
def test_clients_may_ask_for_life_no_more_often_than_told(monkeypatch, interval_s, sent_away):
    monkeypatch.setattr("service.transport.rpc.MIN_PING_INTERVAL_S", interval_s)

    async def scenario():
        async with rpc_server() as server:
            return await asyncio.to_thread(_is_sent_away, int(server.address.rsplit(":", 1)[1]))

    assert asyncio.run(scenario()) == sent_away


def _is_sent_away(port):
    """Whether a client is that asks for a sign of life six times, a tenth of a second apart."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(PREFACE)
        stream = connection.makefile("rb")
        try:
            for _ in range(6):
                time.sleep(0.1)
                connection.sendall(struct.pack(">IBI", 8 << 8 | PING, 0, 0) + bytes(8))
                kind = None
                while kind != PING:
                    header = stream.read(9)
                    if not header or (kind := header[3]) == GOAWAY:
                        return True
                    stream.read(int.from_bytes(header[:3], "big"))
        except ConnectionError:
            return True
    return False


def test_calls_go_on_while_connections_are_renewed():
    async def scenario():
        async with rpc_server(grpc_max_connection_age_s=0.1) as server:
            end = asyncio.get_running_loop().time() + 1.0
            calls = 0
            while asyncio.get_running_loop().time() < end:
                await server.call("Generate", UNARY["Generate"])
                calls += 1
            return calls

    assert asyncio.run(scenario()) > 10


def test_what_runs_when_a_connection_grows_old_is_answered():
    backend = ScriptedBackend(delay_s=1.0)
    assert ask("Generate", UNARY["Generate"], backend, {"grpc_max_connection_age_s": 0.1}).outputs


def test_the_settings_reach_grpc():
    options = dict(
        _options(
            Settings(max_body_bytes=5000, grpc_keepalive_s=7.5, grpc_max_connection_age_s=9.5, max_timeout_ms=31_000)
        )
    )
    assert options["grpc.max_receive_message_length"] == 5000
    assert options["grpc.keepalive_time_ms"] == 7500
    assert options["grpc.max_connection_age_ms"] == 9500
    assert options["grpc.max_connection_age_grace_ms"] == 31_000


def test_a_taken_port_is_an_error():
    async def scenario():
        async with rpc_server() as server:
            await RpcServer(server.engine, Settings(), server.telemetry).start(server.address)

    with pytest.raises(OSError, match="bind"):
        asyncio.run(scenario())
