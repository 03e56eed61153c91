"""What is loaded and retired, worked by hand and then over random lives of a folder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backends.version_plan import plan_versions


def _files(versions):
    """Fingerprints from ``"3 2b"``: versions 3 and 2, the latter with other files than a plain 2."""
    return {
        int(word.rstrip("b")): frozenset({("saved_model.pb", 1, int(word.endswith("b")))}) for word in versions.split()
    }


@pytest.mark.parametrize(
    ("on_disk", "ready", "refused", "served", "keep", "load", "retire", "forget"),
    [
        # start
        ("3 2 1", "", "", 1, set(), (3,), set(), set()),
        ("3 2 1", "", "", 2, set(), (3, 2), set(), set()),
        ("3 2 1", "", "", 1, {1, 9}, (3, 1), set(), set()),
        ("3 2 1", "", "3", 1, set(), (2,), set(), set()),
        ("3 2 1", "2", "3", 1, set(), (), set(), set()),
        ("3 2 1", "", "3 2 1", 1, set(), (), set(), set()),
        # a new version: the old one answers until the new one is ready, or for good if it is refused
        ("2 1", "1", "", 1, set(), (2,), set(), set()),
        ("2 1", "2 1", "", 1, set(), (), {1}, set()),
        ("2 1", "1", "2", 1, set(), (), set(), set()),
        ("3 2 1", "2 1", "", 2, set(), (3,), set(), set()),
        ("3 2 1", "3 2 1", "", 2, set(), (), {1}, set()),
        ("3 2 1", "2 1", "3", 2, set(), (), set(), set()),
        ("2 1", "2 1", "", 1, {1}, (), set(), set()),
        ("3 2 1", "2 1", "", 1, {1}, (3,), set(), set()),
        # what was refused is tried again when its files change, and not told of once something newer answers
        ("2b 1", "1", "2", 1, set(), (2,), set(), {2}),
        ("3 2 1", "3", "2", 1, set(), (), set(), {2}),
        ("3 2 1", "3", "2", 1, {2}, (), set(), set()),
        ("1", "1", "2", 1, set(), (), set(), {2}),
        # removal: the removed one answers until another is ready, or goes if there is none
        ("1", "2", "", 1, set(), (1,), set(), set()),
        ("1", "2 1", "", 1, set(), (), {2}, set()),
        ("1", "2", "1", 1, set(), (), {2}, set()),
        ("", "2", "1", 1, {2}, (), {2}, {1}),
        ("3 1", "3 2", "", 2, set(), (1,), set(), set()),
        ("3", "3 2", "", 2, set(), (), {2}, set()),
        # other files under the same number: loaded as a new version, in whose place the old content answers
        ("1b", "1", "", 1, set(), (1,), set(), set()),
        ("1b", "1", "1b", 1, set(), (), set(), set()),
        ("2b 1", "2", "2b", 1, set(), (1,), set(), set()),
        ("2b 1", "2 1", "2b", 1, set(), (), {2}, set()),
        ("2 1b", "2 1", "1b", 1, {1}, (), set(), set()),
    ],
)
def test_each_case(on_disk, ready, refused, served, keep, load, retire, forget):
    plan = plan_versions(_files(on_disk), _files(ready), _files(refused), served=served, keep=keep)
    assert (plan.load, plan.retire, plan.forget) == (load, retire, forget)


FOLDERS = st.dictionaries(st.integers(1, 6), st.sampled_from(["good", "good, anew", "bad", "bad, anew"]), max_size=5)


@given(
    lives=st.lists(st.tuples(FOLDERS, st.integers(0, 4)), min_size=1, max_size=6),
    served=st.integers(1, 3),
    keep=st.frozensets(st.integers(1, 6), max_size=3),
)
def test_over_any_life_something_answers_as_long_as_something_good_is_there(lives, served, keep):
    """The folder changes, then so many loads are done as are drawn; at the end, all of them."""
    ready, refused = {}, {}
    for on_disk_now, loads in [*lives, (lives[-1][0], 100)]:
        on_disk = {number: frozenset({(content, 0, 0)}) for number, content in on_disk_now.items()}
        for _ in range(loads):
            plan = plan_versions(on_disk, ready, refused, served=served, keep=keep)
            for number in plan.forget:
                del refused[number]
            left = {number: ready[number] for number in ready if number not in plan.retire}
            if ready and any(content.startswith("good") for content in on_disk_now.values()):
                assert left
            ready = left
            if not plan.load:
                break
            assert len(set(plan.load)) == len(plan.load)
            number = plan.load[0]
            if on_disk_now[number].startswith("good"):
                ready[number] = on_disk[number]
                refused.pop(number, None)
            else:
                refused[number] = on_disk[number]
    assert not plan.load
    good = sorted((number for number, content in on_disk_now.items() if content.startswith("good")), reverse=True)
    wanted = {number: on_disk[number] for number in good if number in keep or number in good[:served]}
    assert wanted.items() <= ready.items()
    if good:
        replaced = {number for number in keep & on_disk.keys() if number not in good}
        assert ready.keys() - wanted.keys() <= replaced
