import json

import pytest

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


def test_a_number_that_json_lacks_is_never_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"score": float("inf")})
