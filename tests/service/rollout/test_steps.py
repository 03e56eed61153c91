"""What labels become at each step, worked out by hand."""

from __future__ import annotations

import pytest

from service.rollout.steps import RolloutError, back, for_canaries, to_canary, to_stable, told

SETTLED = {"stable": {3: 1}, "canary": {3: 1}, "default": {3: 1}, "previous": {2: 1}, "legal": {1: 1}}


def test_a_whole_rollout() -> None:
    tried = to_canary(SETTLED, 4)
    assert tried == SETTLED | {"canary": {4: 1}}
    shared = to_canary(tried, 4, 10)
    assert shared == SETTLED | {"canary": {4: 1}, "default": {3: 90, 4: 10}}
    stable = to_stable(shared, None, answering=3)
    everywhere = {"stable": {4: 1}, "canary": {4: 1}, "default": {4: 1}}
    assert stable == {**everywhere, "previous": {3: 1}, "legal": {1: 1}}
    undone = back(stable)
    assert undone == SETTLED | {"previous": {3: 1}}


def test_back_gives_a_canary_up_and_keeps_what_was_before() -> None:
    assert back(to_canary(SETTLED, 4, 50)) == SETTLED


def test_the_first_version_becomes_stable_by_name() -> None:
    everywhere = {"stable": {1: 1}, "canary": {1: 1}, "default": {1: 1}}

    assert to_stable({}, 1, answering=1) == {**everywhere, "previous": {1: 1}}
    assert to_stable({}, 1, answering=None) == {**everywhere, "previous": {1: 1}}


def test_what_answered_without_any_label_is_what_one_goes_back_to() -> None:
    assert back(to_stable({}, 2, answering=1))["default"] == {1: 1}


def test_labels_that_no_rollout_wrote_are_completed() -> None:
    assert to_canary({"stable": {3: 1}}, 4) == {
        "stable": {3: 1}, "canary": {4: 1}, "default": {3: 1}, "previous": {3: 1}
    }  # fmt: skip
    # ``stable`` alone leaves the newest version to those that name none: promoting it settles that.
    assert to_stable({"stable": {3: 1}, "previous": {2: 1}}, 3, answering=4) == {
        "stable": {3: 1}, "canary": {3: 1}, "default": {3: 1}, "previous": {2: 1}
    }  # fmt: skip


def test_no_label_ever_goes() -> None:
    labels = SETTLED
    for step in (lambda x: to_canary(x, 4, 5), back, lambda x: to_stable(x, 5, 3), back):
        labels = step(labels)
        assert labels.keys() == SETTLED.keys()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda: to_canary({}, 4), "no version is stable yet: promote 4 to stable"),
        (lambda: to_canary(SETTLED, 3), "version 3 is stable already"),
        (lambda: to_canary(SETTLED, 4, 100), "0 to 99 percent, not 100"),
        (lambda: to_canary(SETTLED, 4, -1), "0 to 99 percent, not -1"),
        (lambda: to_canary(SETTLED, 4, float("nan")), "0 to 99 percent, not nan"),
        (lambda: to_stable(SETTLED, None, 3), "no canary is being tried"),
        (lambda: to_stable({}, None, 3), "no canary is being tried"),
        (lambda: to_stable(SETTLED, 3, 3), "version 3 is stable already"),
        (lambda: back({}), "no version is stable"),
        (lambda: back(SETTLED | {"previous": {3: 1}}), "before version 3 nothing was stable"),
        (lambda: back({label: {3: 1} for label in ("stable", "canary", "default")}), "before version 3 nothing"),
        (lambda: back({"stable": {3: 9, 4: 1}}), r"stable stands for several versions, 3 \(90 %\), 4 \(10 %\)"),
    ],
)
def test_what_makes_no_sense_is_refused(step, message: str) -> None:
    with pytest.raises(RolloutError, match=message):
        step()


def test_gateways_for_canaries_answer_everything_by_the_canary() -> None:
    labels = {"en-fr": to_canary(SETTLED, 4, 10), "ko": {"stable": {1: 1}}}

    assert for_canaries(labels) == {"en-fr": {**labels["en-fr"], "default": {4: 1}}, "ko": {"stable": {1: 1}}}


def test_splits_in_words() -> None:
    assert told({3: 7}) == "3"
    assert told({3: 2, 4: 1}) == "3 (66.7 %), 4 (33.3 %)"
