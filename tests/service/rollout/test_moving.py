"""Steps against gateways that run: what is checked before, and what is waited for after."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.backend import VersionState
from service.engine.labels import parse_labels
from service.errors import BackendUnavailable
from service.rollout import YamlFile, back, look, move, remove, summary, to_canary, to_stable, waiting_for
from service.rollout.steps import RolloutError
from tests.support.gateway import MODEL, TestGateway, gateway
from tests.support.load import wait_until

SETTLED = f"{MODEL}: {{stable: 3, canary: 3, default: 3, previous: 2}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.yaml"
    path.write_text(SETTLED)
    return path


@pytest.fixture
def one(file: Path) -> Iterator[TestGateway]:
    with gateway(file, 1, 2, 3, 4) as running:
        yield running


@pytest.fixture
def other(file: Path) -> Iterator[TestGateway]:
    with gateway(file, 1, 2, 3, 4) as running:
        yield running


def canary(now, answering):
    return to_canary(now, 4, 10)


def test_a_rollout_and_back_at_two_gateways(one: TestGateway, other: TestGateway, file: Path) -> None:
    urls, told = [one.url, other.url], []
    wait = functools.partial(waiting_for, urls, model=MODEL, timeout_s=20, watched=told.extend)

    assert wait(labels=move(YamlFile(file), urls, MODEL, canary)) == 2
    assert parse_labels(file.read_text())[MODEL]["default"] == {3: 90, 4: 10}
    for step in (lambda now, answering: to_stable(now, None, answering), lambda now, answering: back(now)):
        assert wait(labels=move(YamlFile(file), urls, MODEL, step)) == 2
    assert [each.models[MODEL].labels["default"].in_force for each in look(urls)] == [{3: 1}, {3: 1}]
    assert any("is 3, not 4" in each for each in told)  # it was waited for, and said for what


@pytest.mark.parametrize(
    ("state", "reason", "message"),
    [
        (VersionState.LOADING, "certifying", r"canary cannot be 4: version 4 is loading: certifying \(http"),
        (VersionState.REFUSED, "3 goldens differ", "version 4 is refused: 3 goldens differ"),
    ],
)
def test_a_version_that_is_not_ready_everywhere_is_refused(
    one: TestGateway, other: TestGateway, file: Path, state: VersionState, reason: str, message: str
) -> None:
    other.set_state(4, state, reason)

    with pytest.raises(RolloutError, match=message):
        move(YamlFile(file), [one.url, other.url], MODEL, canary)
    assert file.read_text() == SETTLED


def test_a_version_that_nobody_has_is_refused(one: TestGateway, file: Path) -> None:
    with pytest.raises(RolloutError, match="stable cannot be 9: version 9 is not there: publish it"):
        move(YamlFile(file), [one.url], MODEL, lambda now, answering: to_stable(now, 9, answering))
    with pytest.raises(RolloutError, match=f"has no model ko: it has {MODEL}"):
        move(YamlFile(file), [one.url], "ko", canary)


def test_going_back_to_what_is_not_loaded_any_more_is_refused(one: TestGateway, file: Path) -> None:
    one.set_state(2, VersionState.REFUSED, "its files are damaged")

    with pytest.raises(RolloutError, match="stable cannot be 2: version 2 is refused: its files are damaged"):
        move(YamlFile(file), [one.url], MODEL, lambda now, answering: back(now))
    assert file.read_text() == SETTLED


def test_going_back_waits_for_no_gateway_but_one(one: TestGateway, other: TestGateway, file: Path) -> None:
    """A gateway may lag, begin, or be without the version: none of that is a reason to stay with what fails."""
    ahead = file.with_name("ahead.yaml")
    ahead.write_text(SETTLED.replace("canary: 3, default: 3", "canary: 4, default: {3: 90, 4: 10}"))
    urls, doubts = [one.url, other.url], []
    other.set_state(3, VersionState.LOADING, "certifying")

    labels = move(YamlFile(ahead), urls, MODEL, lambda now, answering: back(now), doubts)
    assert parse_labels(ahead.read_text()) == labels == parse_labels(SETTLED)
    assert [told.partition(" reads other")[0] for told in doubts[:-1]] == [one.url, one.url, other.url, other.url]
    assert doubts[-1] == f"canary cannot be 3: version 3 is loading: certifying ({other.url})"
    one.set_state(3, VersionState.LOADING)
    ahead.write_text(SETTLED.replace("canary: 3", "canary: 4"))
    with pytest.raises(RolloutError, match=r"canary cannot be 3: version 3 is loading"):
        move(YamlFile(ahead), urls, MODEL, lambda now, answering: back(now), [])
    with pytest.raises(RolloutError, match="has no model ko"):
        move(YamlFile(ahead), urls, "ko", lambda now, answering: back(now), [])


def test_labels_that_a_gateway_does_not_read_are_not_moved(one: TestGateway, tmp_path: Path) -> None:
    unread = tmp_path / "unread.yaml"
    unread.write_text(SETTLED.replace("previous: 2", "previous: 1"))
    with pytest.raises(
        RolloutError, match=r"reads other labels than those in .*unread\.yaml: previous is 2 there, and 1"
    ):
        move(YamlFile(unread), [one.url], MODEL, canary)
    unread.write_text("{}")
    with pytest.raises(RolloutError, match="canary is 3 there, and none here"):
        move(YamlFile(unread), [one.url], MODEL, canary)


def test_a_gateway_that_cannot_read_its_labels_is_told(one: TestGateway, file: Path, tmp_path: Path) -> None:
    file.write_text("en-fr: 3")
    wait_until(lambda: look([one.url])[0].labels_error is not None, "the gateway finds the mistake")
    good = tmp_path / "good.yaml"
    good.write_text(SETTLED)

    with pytest.raises(RolloutError, match=r"cannot read its labels: .*en-fr must have labels"):
        move(YamlFile(good), [one.url], MODEL, canary)


def test_labels_that_never_arrive_are_told(one: TestGateway, file: Path, tmp_path: Path) -> None:
    with gateway(None, 3, 4) as without:
        labels = {MODEL: {"stable": {3: 1}}}
        with pytest.raises(
            RolloutError, match=rf"after 0 s they do not hold everywhere: {without.url} has no label stable: "
        ):
            waiting_for([one.url, without.url], labels, MODEL, 0, lambda left: None)
    one.set_state(3, VersionState.LOADING)
    with pytest.raises(RolloutError, match=r"stable is not 3: version 3"):
        waiting_for([one.url], labels, MODEL, 0, lambda left: None)


def test_a_gateway_that_does_not_answer(one: TestGateway, file: Path) -> None:
    with gateway(file, 3, 4) as gone:
        pass
    with pytest.raises(BackendUnavailable, match="no answer from"):
        move(YamlFile(file), [one.url, gone.url], MODEL, canary)
    with pytest.raises(RolloutError, match="they do not hold everywhere: no answer from"):
        waiting_for([one.url, gone.url], {MODEL: {}}, MODEL, 0, lambda left: None)


def test_only_what_nothing_is_answered_by_is_removed(one: TestGateway, file: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    for version in (1, 2, 3, 4):
        (models / MODEL / str(version)).mkdir(parents=True)
    for version, why in (
        (2, r"previous in .*labels\.yaml"),
        (3, "it answers requests that name no version"),
    ):
        with pytest.raises(RolloutError, match=f"version {version} of {MODEL} is in use: .*{why}"):
            remove(YamlFile(file), [one.url], MODEL, version, models)
    with pytest.raises(RolloutError, match="there is no version 9"):
        remove(YamlFile(file), [one.url], MODEL, 9, models)
    with pytest.raises(RolloutError, match=f"has no model ko: it has {MODEL}"):
        remove(YamlFile(file), [one.url], "ko", 1, models)
    remove(YamlFile(file), [one.url], MODEL, 1, models)

    assert sorted(each.name for each in (models / MODEL).iterdir()) == ["2", "3", "4"]


def test_what_a_gateway_still_answers_by_is_not_removed(one: TestGateway, tmp_path: Path) -> None:
    """The file names it no more, but that has not arrived."""
    ahead = tmp_path / "ahead.yaml"
    ahead.write_text(f"{MODEL}: {{stable: 4}}\n")
    with pytest.raises(RolloutError, match=f"version 2 of {MODEL} is in use: previous in {one.url}"):
        remove(YamlFile(ahead), [one.url], MODEL, 2, tmp_path)


def test_how_things_stand(one: TestGateway, other: TestGateway, file: Path) -> None:
    other.set_state(2, VersionState.REFUSED, "damaged")
    found = summary(look([one.url, other.url]), None)

    model = found["models"][MODEL]
    assert found["gateways"] == [one.url, other.url]
    assert model["versions"][2] == {"ready": [one.url], "refused: damaged": [other.url]}
    assert list(model["versions"]) == [4, 3, 2, 1]
    assert model["labels"]["stable"] == {"3": [one.url, other.url]}
    assert model["unused"] == [1, 4]
    assert [each.startswith(f"{other.url}: previous is not 2: ") for each in model["missing"]] == [True]
    written = {MODEL: {"stable": {4: 1}}}
    missing = summary(look([one.url]), written)["models"][MODEL]["missing"]
    assert sorted(missing) == [
        f"{one.url}: canary is 3, and not written",
        f"{one.url}: default is 3, and not written",
        f"{one.url}: previous is 2, and not written",
        f"{one.url}: stable is 3, not 4",
    ]
    with pytest.raises(RolloutError, match=f"there is no model ko, but {MODEL}"):
        summary(look([one.url]), None, "ko")
