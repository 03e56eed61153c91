"""Ten thousand messages that no client means: each gets its error or its answer, never UNKNOWN or INTERNAL."""

import asyncio
import collections
import random

import grpc
from google.protobuf.descriptor import FieldDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from service.transport.proto import malgil_v1_pb2 as messages
from service.transport.rpc import SERVICE
from tests.support.rpc_client import rpc_server

MESSAGES = 10_000
CHANNELS, AT_ONCE = 4, 64

KINDS = {
    f"/{SERVICE}/Generate": messages.GenerateRequest,
    f"/{SERVICE}/Score": messages.ScoreRequest,
    f"/{SERVICE}/Tokenize": messages.TokenizeRequest,
    f"/{SERVICE}/Detokenize": messages.DetokenizeRequest,
    f"/{SERVICE}/ListModels": messages.ListModelsRequest,
    f"/{SERVICE}/GetModel": messages.GetModelRequest,
    "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest,
    "/grpc.health.v1.Health/Watch": health_pb2.HealthCheckRequest,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": reflection_pb2.ServerReflectionRequest,
}
"""What each method takes."""
WEIGHTS = [8, 5, 3, 3, 1, 1, 1, 1, 1]

TEXTS = ["", " ", "a", "echo", "stable", "the word says no", "말길", "a\0b", "x" * 300, "é" * 1000, "\ufdfa" * 50, "🙂"]
NUMBERS = [-(2**31), -1, 0, 1, 2, 3, 5, 8, 9, 100, 512, 513, 2**31 - 1]
REALS = [float("nan"), float("inf"), -0.0, 0.0, 1.0, 0.5, 1e300, -5e-324]
ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}


def _value(field, chance, depth):
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _filled(field.message_type._concrete_class, chance, depth + 1)
    if field.type == FieldDescriptor.TYPE_STRING:
        return chance.choice(TEXTS)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return chance.random() < 0.5
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return chance.choice(REALS)
    return chance.choice(NUMBERS)


def _filled(kind, chance, depth=0):
    """A message of values at random, each within its type."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if depth < 3 and chance.random() < (0.04 if depth else 0.9 if field.number == 1 else 0.15):
            if field.is_repeated:
                values = [_value(field, chance, depth) for _ in range(chance.choice([0, 1, 1, 1, 2, 129]))]
                getattr(message, field.name).extend(values)
            elif field.type == FieldDescriptor.TYPE_MESSAGE:
                getattr(message, field.name).CopyFrom(_value(field, chance, depth))
            else:
                setattr(message, field.name, _value(field, chance, depth))
    return message


def _mutated(data, chance):
    """Bits turned, bytes lost, doubled and put in, other fields behind."""
    data = bytearray(data)
    for _ in range(chance.choice([0, 0, 1, 2, 4, 16])):
        place = chance.randrange(len(data) + 1)
        change = chance.randrange(5)
        if change == 0 and place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        elif change == 1:
            del data[place:]
        elif change == 2:
            data[place:place] = chance.randbytes(chance.randrange(1, 9))
        elif change == 3:
            del data[place : place + chance.randrange(1, 5)]
        else:
            data += data[place:]
    return bytes(data[:100_000])


def _cases(chance):
    for path in chance.choices(list(KINDS), WEIGHTS, k=MESSAGES):
        if chance.random() < 0.1:
            yield path, chance.randbytes(chance.randrange(200))
        else:
            yield path, _mutated(_filled(KINDS[path], chance).SerializeToString(), chance)


async def _code(channel, path, data):
    """What became of a call."""
    try:
        if path.endswith("/Watch"):
            call = channel.unary_stream(path)(data)
            await call.read()  # raises where it has ended with an error
            call.cancel()
        elif path.endswith("/ServerReflectionInfo"):
            async for _ in channel.stream_stream(path)(iter([data])):
                pass
        else:
            await channel.unary_unary(path)(data)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def test_whatever_comes_is_answered(monkeypatch, caplog):
    monkeypatch.setattr("service.telemetry._LOGGER.propagate", True)
    found = collections.defaultdict(collections.Counter)
    cases = _cases(random.Random(5))

    async def client(address):
        async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:

            async def calls():
                for path, data in cases:
                    code = await _code(channel, path, data)
                    found[path][code] += 1
                    assert code in ALLOWED, (path, data.hex())

            await asyncio.gather(*(calls() for _ in range(AT_ONCE // CHANNELS)))

    async def scenario():
        async with rpc_server() as server:
            await asyncio.gather(*(client(server.address) for _ in range(CHANNELS)))
            answer = await server.call("Generate", messages.GenerateRequest(inputs=["the word"]))
            health = await server.channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
            return answer, health_pb2.HealthCheckResponse.FromString(health).status

    answer, status = asyncio.run(scenario())
    assert answer.outputs[0].generated_text == "the word"
    assert status == health_pb2.HealthCheckResponse.SERVING
    assert "unexpected error" not in caplog.text
    assert sum(sum(codes.values()) for codes in found.values()) == MESSAGES
    for path in KINDS:
        assert found[path].keys() >= {"OK", "INVALID_ARGUMENT"}, (path, found[path])
    assert found[f"/{SERVICE}/Generate"]["OK"] > 100, "mutations leave nothing to run"
