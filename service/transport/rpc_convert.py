"""Messages -> the fields that ``service.validation`` judges, and answers of the engine -> messages.

Messages name things as REST does, so that the values of ``rest_convert`` make them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from service.engine import ModelStatus
from service.errors import InvalidRequest
from service.generation import Detokenization, Generation, Scoring, Tokenization
from service.transport import rest_convert
from service.transport.proto import malgil_v1_pb2 as messages

Parsed = TypeVar("Parsed", bound=Message)


def parse(data: bytes, kind: type[Parsed]) -> Parsed:
    """The message of ``data``. Raises InvalidRequest if that is none."""
    try:
        message: Parsed = kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name
        raise InvalidRequest(f"the message is no {name}: send the bytes of one, its texts in UTF-8") from None
    return message


def fields(data: bytes, kind: type[Message]) -> dict[str, Any]:
    """What is set in a message of ours, as REST's JSON would have it.

    Raises:
        InvalidRequest: ``data`` is no such message, or has a field that ``kind`` has not.
    """
    return _fields(parse(data, kind), "the message")


def _fields(message: Message, where: str) -> dict[str, Any]:
    _refuse_unknown(message, where)
    values = {}
    for field, value in message.ListFields():
        name = "version" if field.name == "label" else field.name  # one of the two at most
        if field.is_repeated:
            values[name] = [_value(each, field, where) for each in value]
        else:
            values[name] = _value(value, field, where)
    return values


def _value(value: Any, field: FieldDescriptor, where: str) -> Any:
    if isinstance(value, messages.TokenIds):
        _refuse_unknown(value, f"'{field.name}'")
        return list(value.ids)
    return _fields(value, f"'{field.name}'") if isinstance(value, Message) else value


def _refuse_unknown(message: Message, where: str) -> None:
    unknown = UnknownFieldSet(message)
    if len(unknown):
        number = unknown[0].field_number
        if number in message.DESCRIPTOR.fields_by_number:
            raise InvalidRequest(f"{where} has a field {number} of another type than the server's .proto")
        there_are = ", ".join(f"{field.name} = {field.number}" for field in message.DESCRIPTOR.fields)
        raise InvalidRequest(f"{where} has no field {number}: there are {there_are or 'none'}")


def generation(answer: Generation, request_id: str) -> bytes:
    """``GenerateResponse``."""
    return _by_output(messages.GenerateResponse, rest_convert.generation(answer, request_id))


def scoring(answer: Scoring, request_id: str) -> bytes:
    """``ScoreResponse``."""
    values = rest_convert.scoring(answer, request_id)
    for output in values["outputs"]:
        if "alignment" in output:
            output["alignment"] = [{"weights": weights} for weights in output["alignment"]]
    return _by_output(messages.ScoreResponse, values)


def _by_output(kind: type[messages.GenerateResponse | messages.ScoreResponse], values: dict[str, Any]) -> bytes:
    """A message whose ``outputs`` are made one by one: while one is made, no other thread runs."""
    outputs = values.pop("outputs")
    message = kind(**values)
    for output in outputs:
        message.outputs.add(**output)
    return _bytes(message)


def tokenization(answer: Tokenization) -> bytes:
    """``TokenizeResponse``."""
    return _bytes(messages.TokenizeResponse(**rest_convert.tokenization(answer)))


def detokenization(answer: Detokenization) -> bytes:
    """``DetokenizeResponse``."""
    return _bytes(messages.DetokenizeResponse(**rest_convert.detokenization(answer)))


def model_list(models: Sequence[ModelStatus], labels_error: str | None) -> bytes:
    """``ListModelsResponse``."""
    return _bytes(messages.ListModelsResponse(**rest_convert.model_list(models, labels_error)))


def model(status: ModelStatus) -> bytes:
    """``ModelInfo``."""
    return _bytes(messages.ModelInfo(**rest_convert.model(status)))


def _bytes(message: Message) -> bytes:
    data: bytes = message.SerializeToString()
    return data
