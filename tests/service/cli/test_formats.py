"""Tab-separated values that cannot be misread."""

from hypothesis import given
from hypothesis import strategies as st

from service.cli.formats import from_tsv, json_line, plain, tsv

fields = st.lists(st.text(st.sampled_from("\\tnr\t\n\r a말😀")), min_size=1, max_size=4)


@given(fields)
def test_fields_come_back_from_one_line(texts):
    line = tsv(*texts)
    assert not set("\r\n") & set(line)
    assert line.count("\t") == len(texts) - 1
    assert from_tsv(line) == texts


def test_what_is_written_and_read():
    assert tsv("a\tb\\n", "c\nd\r", -0.5) == "a\\tb\\\\n\tc\\nd\\r\t-0.5"
    assert from_tsv(r"C:\Users\me" + "\t\\") == [r"C:\Users\me", "\\"]


def test_text_alone_is_one_line():
    assert plain("a\r\nb\tc\x85") == "a  b\tc\x85"


def test_json_is_one_line_in_every_script():
    assert json_line({"말": "a\n😀"}) == '{"말": "a\\n😀"}'
