import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.transport.json_body import dump_json, parse_json


def test_values_come_through_as_json_has_them():
    body = '{"inputs": ["말길", "é\\n"], "parameters": {"beam_size": 4, "length_penalty": 0.5, "details": true}}'
    assert parse_json(body.encode()) == json.loads(body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "not JSON: .*line 1 column 2"),
        (b'{"inputs": "a",}', "not JSON"),
        (b"{'inputs': 'a'}", "not JSON"),
        (b'{"inputs": "a"} x', "not JSON: Extra data"),
        (b'{"inputs": "a\nb"}', "not JSON: Invalid control character"),
        (b'{"inputs": "\xff"}', "not UTF-8: see byte 12"),
        ('{"inputs": "a"}'.encode("utf-16"), "not UTF-8"),
        (b'\xef\xbb\xbf{"inputs": "a"}', "not JSON"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'{"inputs": "a", "inputs": "b"}', "the key 'inputs' stands twice"),
        (b'{"\\ud800": 1, "\\ud800": 2}', r"the key '\\ud800' stands twice"),
    ],
)
def test_what_is_no_sound_json_is_refused_with_a_reason(body, reason):
    with pytest.raises(InvalidRequest, match=reason):
        parse_json(body)


def test_many_keys_with_one_twice_are_refused_quickly():
    body = "{" + ",".join(f'"{number}":0' for number in range(100_000)) + ',"7":0}'
    with pytest.raises(InvalidRequest, match="'7' stands twice"):
        parse_json(body.encode())


def test_the_message_quotes_nothing_of_the_body_but_a_key():
    with pytest.raises(InvalidRequest) as caught:
        parse_json(b'{"inputs": "my secret", ]')
    assert "secret" not in caught.value.message


def test_answers_are_utf8_and_not_escaped():
    assert dump_json({"text": "말길 é ✓"}) == '{"text":"말길 é ✓"}'.encode()


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70) | st.text() | st.none())
@example(1e16)
@example(5e-324)
@example(-0.0)
@example(-1.2060546875)
def test_every_value_comes_back_as_it_was(value):
    assert repr(json.loads(dump_json([value, (value,)]))) == repr([value, [value]])


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_a_number_that_json_lacks_is_never_written(number):
    assert dump_json({"score": number}) == b'{"score":null}'


def test_fields_keep_their_order():
    assert dump_json({"b": 1, "a": {"d": True, "c": 0.5}}) == b'{"b":1,"a":{"d":true,"c":0.5}}'
