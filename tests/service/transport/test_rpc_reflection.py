"""Tools learn from the server what it serves."""

import asyncio

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.rpc_client import rpc_server

INFO = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def _answers(*requests):
    async def scenario():
        async with rpc_server() as server:
            stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
            return [answer async for answer in stub.ServerReflectionInfo(iter(requests))]

    return asyncio.run(scenario())


def test_services_and_their_messages_are_told():
    listed, found, unknown, empty = _answers(
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="malgil.v1.GenerationService"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="malgil.v1.None"),
        reflection_pb2.ServerReflectionRequest(),
    )
    assert [service.name for service in listed.list_services_response.service] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "malgil.v1.GenerationService",
    ]
    files = map(descriptor_pb2.FileDescriptorProto.FromString, found.file_descriptor_response.file_descriptor_proto)
    assert {"service/transport/proto/malgil_v1.proto", "google/protobuf/struct.proto"} == {file.name for file in files}
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert empty.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_what_is_no_message_is_invalid():
    async def scenario():
        async with rpc_server() as server:
            async for _ in server.channel.stream_stream(INFO)(iter([b"\xff\xff"])):
                pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(scenario())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ServerReflectionRequest" in caught.value.details()
