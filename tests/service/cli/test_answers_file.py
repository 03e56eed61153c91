"""A file of answers, as runs leave it that end in every way."""

import errno
import json

import pytest

from service.cli import answers_file
from service.cli.answers_file import AnswersFile, is_resumable, progress_of
from service.cli.console import Unfinished
from service.errors import InvalidRequest

WORK = {"command": "generate", "format": "text", "beam_size": 4}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.txt"


def beside(path):
    return path.with_name("answers.txt.resume")


def write(path, lines, until=None, *, work=WORK, resume=False, force=False, version="version 1 of a", end=None):
    """Echo ``lines`` into the file, each by itself; fail before the one with the number ``until``."""
    with AnswersFile(path, work, resume=resume, force=force) as answers:
        source = iter(lines)
        answers.skip_done(source)
        for place, line in enumerate(source, answers.progress.lines):
            if place == until:
                raise end or KeyboardInterrupt
            answers.append([line], 1, f"{line}\n".encode(), version)
        answers.finish()


def interrupted(path, lines, until, **options):
    with pytest.raises(KeyboardInterrupt):
        write(path, lines, until, **options)


LINES = ["하나", "two", "", "four"]
WHOLE = "하나\ntwo\n\nfour\n"


def test_a_finished_file_is_alone(path):
    write(path, LINES)
    assert path.read_text() == WHOLE
    assert [each.name for each in path.parent.iterdir()] == ["answers.txt"]


@pytest.mark.parametrize("until", [1, 2, 3])
def test_an_interrupted_run_is_gone_on_with(path, until):
    interrupted(path, LINES, until)
    assert path.read_text() == "".join(f"{line}\n" for line in LINES[:until])
    told = progress_of(path)
    assert (told.lines, told.asked, told.bytes, told.versions) == (
        until,
        until,
        path.stat().st_size,
        ("version 1 of a",),
    )
    write(path, LINES, resume=True)
    assert path.read_text() == WHOLE
    assert not beside(path).exists()


def test_what_was_written_after_the_last_checkpoint_is_cut_off(path):
    interrupted(path, LINES, 2)
    with path.open("a") as file:
        file.write("a whole line\nand a part of o")
    write(path, LINES, resume=True)
    assert path.read_text() == WHOLE


def test_nothing_is_left_of_a_run_that_came_to_nothing(path):
    interrupted(path, LINES, 0)
    assert list(path.parent.iterdir()) == []
    write(path, LINES, resume=True)
    assert path.read_text() == WHOLE


def test_answers_are_not_overwritten_unless_that_is_said(path):
    path.write_text("dear to me\n")
    for resume in (False, True):
        with pytest.raises(InvalidRequest, match="--force"):
            write(path, LINES, resume=resume)
        interrupted(path, LINES, 0, force=True)
    assert path.read_text() == "dear to me\n"
    write(path, LINES, force=True)
    assert path.read_text() == WHOLE


def test_an_unfinished_file_is_not_begun_anew_by_mistake(path):
    interrupted(path, LINES, 3)
    with pytest.raises(InvalidRequest, match="unfinished: go on with --resume"):
        write(path, LINES)
    write(path, ["new"], force=True)
    assert path.read_text() == "new\n"
    assert not beside(path).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"work": {**WORK, "beam_size": 2}}, r"other options \(beam_size: 4 then, 2 now\)"),
        ({"work": {**WORK, "stop": ["말"]}}, r'other options \(stop: none then, \["말"\] now\)'),
        ({"lines": ["하나", "zwei", "", "four"]}, "other inputs: the first 3 lines have changed"),
        ({"lines": ["하나", "two"]}, "answers of 3 lines, and the input has only 2"),
        ({"version": "version 2 of a"}, "begun with version 1 of a, and now version 2 of a answers"),
    ],
)
def test_other_work_is_refused_and_nothing_is_lost(path, change, message):
    interrupted(path, LINES, 3)
    before = path.read_bytes(), beside(path).read_bytes()
    with pytest.raises(InvalidRequest, match=message):
        write(path, **{"lines": LINES, "resume": True, **change})
    assert (path.read_bytes(), beside(path).read_bytes()) == before
    write(path, LINES, resume=True)
    assert path.read_text() == WHOLE


def test_texts_that_were_too_long_may_be_cut_on_the_way_on(path):
    interrupted(path, LINES, 3)
    write(path, LINES, work={**WORK, "truncate": True}, resume=True)
    assert path.read_text() == WHOLE
    interrupted(path, LINES, 3, work={**WORK, "truncate": True}, force=True)
    with pytest.raises(InvalidRequest, match="truncate: true then, none now"):
        write(path, LINES, resume=True)


def test_lines_that_are_not_done_may_change(path):
    interrupted(path, LINES, 2)
    write(path, [*LINES[:2], "mended"], resume=True)
    assert path.read_text() == "하나\ntwo\nmended\n"


def test_a_file_that_was_edited_or_whose_companion_is_damaged_is_refused(path):
    interrupted(path, LINES, 3)
    path.write_text("하나\n")
    with pytest.raises(InvalidRequest, match="shorter than its run left it"):
        write(path, LINES, resume=True)
    for content in ("{", "[]", '{"lines": 3}', '{"versions": [], "surprise": 1}'):
        beside(path).write_text(content)
        with pytest.raises(InvalidRequest, match="resume is damaged: --force"):
            write(path, LINES, resume=True)


def test_two_runs_do_not_write_one_file(path):
    with AnswersFile(path, WORK, resume=False, force=False) as first:
        with pytest.raises(InvalidRequest, match="another run writes"):
            AnswersFile(path, WORK, resume=True, force=True)
        first.finish()


def test_checkpoints_are_told_while_the_run_goes_on(path, monkeypatch):
    monkeypatch.setattr(answers_file, "CHECKPOINT_S", 0.0)
    with AnswersFile(path, WORK, resume=False, force=False) as answers:
        for count, line in enumerate(LINES, 1):
            answers.append([line], 1, f"{line}\n".encode(), None)
            told = json.loads(beside(path).read_text())
            assert (told["lines"], told["bytes"]) == (count, path.stat().st_size)
        answers.finish()


def test_a_full_disk_hides_no_advice_and_loses_nothing_that_was_told(path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill_the_disk():
        with AnswersFile(path, WORK, resume=False, force=False) as answers:
            answers.append(LINES[:1], 1, f"{LINES[0]}\n".encode(), "version 1 of a")
            full.setattr(answers_file, "CHECKPOINT_S", 60.0)
            answers.append(LINES[1:2], 1, b"two\n", "version 1 of a")
            full.setattr(json, "dump", refuse)
            raise Unfinished("go on with ...")

    with monkeypatch.context() as full:
        full.setattr(answers_file, "CHECKPOINT_S", 0.0)
        with pytest.raises(Unfinished, match="go on with"):
            fill_the_disk()
    assert sorted(each.name for each in path.parent.iterdir()) == ["answers.txt", "answers.txt.resume"]
    assert progress_of(path).lines == 1
    write(path, LINES, resume=True)
    assert path.read_text() == WHOLE


def test_only_files_can_be_gone_on_with(tmp_path):
    assert is_resumable(tmp_path / "new")
    assert not is_resumable(tmp_path)
