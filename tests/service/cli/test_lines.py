"""Lines of files, of standard input and of the command line."""

import pytest

from service.cli.lines import of_arguments, of_file
from service.errors import InvalidRequest


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\n\r\ntwo", ["one", "", "two"]),
        ("\ufeff말길\n\ufeff😀\n".encode(), ["말길", "\ufeff😀"]),
        ("next\x85line\u2028sep\x0bvt\n".encode(), ["next\x85line\u2028sep\x0bvt"]),
        (b"in\rside\r\r\n", ["in\rside\r"]),
    ],
)
def test_lines_end_in_line_feeds_and_nothing_else(tmp_path, content, lines):
    (tmp_path / "texts").write_bytes(content)
    file = of_file(tmp_path / "texts")
    assert list(file.read()) == lines
    assert file.count() == len(lines)


def test_what_is_no_utf_8_is_told_with_its_line_after_those_before_it(tmp_path):
    path = tmp_path / "texts"
    path.write_bytes(b"good\nb\xffd\n")
    read = of_file(path).read()
    assert next(read) == "good"
    with pytest.raises(InvalidRequest, match=rf"^line 2 of {path} is not UTF-8: byte 0xff at 2; convert it first$"):
        next(read)


def test_a_file_that_cannot_be_read_is_told_before_its_first_line(tmp_path):
    with pytest.raises(FileNotFoundError):
        of_file(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        of_file(tmp_path)


def test_arguments_are_texts_as_they_are():
    lines = of_arguments(["two\nlines", "\ufeffx"], lambda place: f"text {place}")
    assert list(lines.read()) == ["two\nlines", "\ufeffx"]
    assert lines.count() == 2
    with pytest.raises(InvalidRequest, match=r"^text 2 is not UTF-8$"):
        list(of_arguments(["a", "\udcff"], lambda place: f"text {place}").read())
