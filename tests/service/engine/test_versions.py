"""Which version answers: every case of a label that moves, is refused, loses what it stands for and gets it back."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from service.backend import ModelVersion, VersionState
from service.backends.scripted import ScriptedBackend, scripted_manifest, tiny_tokenizer
from service.engine.labels import Labels, parse_labels
from service.engine.versions import Versions
from service.errors import BackendUnavailable, InvalidRequest, ModelNotFound
from service.generation import VersionChoice

READY, LOADING, REFUSED = VersionState.READY, VersionState.LOADING, VersionState.REFUSED


class Case:
    """Versions and labels that a test changes."""

    def __init__(self, versions: dict[int, VersionState], labels: str = "{}") -> None:
        self.backend = ScriptedBackend()
        self.versions = Versions(self.backend, random.Random(7))
        self._set(labels)  # as a server reads them: before there are versions
        self.now(versions)

    def now(self, versions: dict[int, VersionState], other: dict[int, VersionState] | None = None) -> None:
        """The versions of model m, and of another one."""
        self.backend.set_versions(
            [
                ModelVersion(model, number, state, manifest=scripted_manifest(model), tokenizer=tiny_tokenizer())
                if state is READY
                else ModelVersion(model, number, state, "it differs" if state is REFUSED else None)
                for model, states in {"m": versions, "other": other or {}}.items()
                for number, state in states.items()
            ]
        )
        self.versions.refresh()

    def want(self, labels: str | Labels) -> None:
        self._set(labels)
        self.versions.refresh()

    def _set(self, labels: str | Labels) -> None:
        self.versions.set_labels({"m": parse_labels(f"m: {labels}")["m"]} if isinstance(labels, str) else labels)

    def answers(self, version: VersionChoice, gone: tuple[int, ...] = ()) -> set[int]:
        """All that may answer."""
        return {self.versions.resolve("m", version, gone).version for _ in range(60)}

    def refusal(self, label: str) -> str | None:
        (model,) = self.versions.status()
        return {each.label: each.refused for each in model.labels}[label]


def test_a_label_stands_for_its_version() -> None:
    case = Case({3: READY, 4: READY}, "{stable: 3, next: 4}")
    assert case.answers("stable") == {3}
    assert case.answers("next") == {4}
    assert case.answers(None) == {4}, "without 'default' the newest"
    assert case.refusal("stable") is None


def test_an_unknown_label_is_not_found_and_the_known_are_named() -> None:
    with pytest.raises(ModelNotFound, match="model 'm' has no label 'stabel', but stable, next"):
        Case({3: READY}, "{stable: 3, next: 3}").answers("stabel")
    with pytest.raises(ModelNotFound, match="has no label 'default', and no other: name a version by its number"):
        Case({3: READY}).answers("default")


def test_a_split_is_by_weight() -> None:
    case = Case({3: READY, 4: READY, 5: READY}, "{canary: {3: 90, 4: 10, 5: 0}}")
    counts = Counter(case.versions.resolve("m", "canary").version for _ in range(2000))
    assert counts.keys() == {3, 4}
    assert 150 < counts[4] < 250


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (REFUSED, r"version 4 is refused \(it differs\)"),
        (LOADING, "version 4 is loading"),
        (None, "there is no version 4"),
    ],
)
def test_a_label_moves_only_to_what_is_ready_and_by_itself_then(state: VersionState | None, reason: str) -> None:
    others = {} if state is None else {4: state}
    case = Case({3: READY, **others}, "{stable: 3}")
    case.want("{stable: 4}")
    assert case.answers("stable") == {3}
    assert re.fullmatch(reason, case.refusal("stable"))
    case.want("{stable: {3: 1, 4: 1}}")
    assert case.answers("stable") == {3}
    case.want("{stable: 4}")
    case.now({3: READY, 4: READY})
    assert case.answers("stable") == {4}
    assert case.refusal("stable") is None


def test_a_version_without_weight_need_not_be_ready() -> None:
    case = Case({3: READY}, "{stable: {3: 1, 9: 0}}")
    assert case.refusal("stable") is None
    assert case.versions.named() == {"m": frozenset({3, 9})}, "but it is loaded"


def test_a_split_falls_back_to_what_is_left_and_is_whole_again() -> None:
    case = Case({3: READY, 4: READY}, "{canary: {3: 1, 4: 1}}")
    case.now({3: READY})
    assert case.answers("canary") == {3}
    assert case.refusal("canary") == "there is no version 4"
    case.now({3: READY, 4: READY})
    assert case.answers("canary") == {3, 4}


def test_a_refused_move_outlives_a_moment_without_the_old_version() -> None:
    case = Case({3: READY, 4: REFUSED}, "{stable: 3}")
    case.want("{stable: 4}")
    case.now({3: LOADING, 4: REFUSED})
    with pytest.raises(BackendUnavailable):
        case.answers("stable")
    case.now({3: READY, 4: REFUSED})
    assert case.answers("stable") == {3}


def test_a_label_that_never_stood_for_anything_takes_what_there_is() -> None:
    case = Case({3: READY, 4: REFUSED}, "{canary: {3: 1, 4: 1}}")
    assert case.answers("canary") == {3}
    assert case.refusal("canary") == "version 4 is refused (it differs)"


def test_a_label_with_nothing_ready_is_unavailable() -> None:
    case = Case({3: READY}, "{stable: 4}")
    with pytest.raises(
        BackendUnavailable, match="label 'stable' of model 'm' has no version that is ready: there is no"
    ):
        case.answers("stable")
    assert case.answers(None) == {3}
    assert case.versions.all_answer()


def test_the_default_falls_back_to_the_newest() -> None:
    case = Case({2: READY, 3: READY, 4: READY}, "{default: 3}")
    assert case.answers(None) == case.answers("default") == {3}
    case.now({2: READY, 4: READY})
    assert case.answers(None) == case.answers("default") == {4}
    case.now({2: READY, 4: REFUSED})
    assert case.answers(None) == {2}


def test_the_default_waits_for_its_version_to_load() -> None:
    case = Case({3: LOADING, 4: READY}, "{default: 3}")
    with pytest.raises(BackendUnavailable, match="version 3 is loading"):
        case.answers(None)
    assert not case.versions.all_answer()
    case.now({3: READY, 4: READY})
    assert case.versions.all_answer()


def test_the_default_waits_for_no_version_without_weight() -> None:
    case = Case({3: READY, 5: LOADING}, "{default: {4: 1, 5: 0}}")
    assert case.answers(None) == {3}


@pytest.mark.parametrize("before", ["{}", "{default: 3}"])
def test_the_newest_goes_on_while_the_default_that_it_answers_for_loads(before: str) -> None:
    """Because there was no such label, or because its version was refused until its files were mended."""
    case = Case({3: REFUSED, 4: READY}, before)
    assert case.answers(None) == {4}
    case.want("{default: 3}")
    case.now({3: LOADING, 4: READY})
    assert case.answers(None) == case.answers("default") == {4}
    assert case.versions.all_answer()
    case.now({3: READY, 4: READY})
    assert case.answers(None) == {3}
    case.now({3: LOADING, 4: READY})
    with pytest.raises(BackendUnavailable, match="version 3 is loading"):
        case.answers(None)


@pytest.mark.parametrize("state", [LOADING, REFUSED])
def test_a_model_that_comes_later_counts_from_when_it_answers(state: VersionState) -> None:
    case = Case({1: READY})
    case.now({1: READY}, {1: state})
    assert case.versions.all_answer()
    assert case.versions.resolve(None, None).name == "m", "no other is served"
    case.now({1: READY}, {1: READY})
    assert case.versions.all_answer()
    with pytest.raises(InvalidRequest, match="name one of m, other"):
        case.versions.resolve(None, None)
    case.now({1: READY}, {1: state})
    assert not case.versions.all_answer()
    case.now({1: READY})
    assert case.versions.all_answer(), "it went"
    case.now({1: READY}, {1: state})
    assert case.versions.all_answer(), "it came anew"
    case.now({}, {1: state})
    assert not case.versions.all_answer(), "nothing answers"


def test_until_all_models_have_answered_each_counts() -> None:
    case = Case({1: READY})
    case.versions = Versions(case.backend, random.Random(7))
    case.now({1: READY}, {1: REFUSED})
    assert not case.versions.all_answer()
    with pytest.raises(InvalidRequest):
        case.versions.resolve(None, None)
    case.now({1: READY}, {1: READY})
    assert case.versions.all_answer()


def test_a_label_that_left_the_file_is_forgotten() -> None:
    case = Case({3: READY, 4: REFUSED}, "{stable: 3}")
    case.want("{other: 3}")
    with pytest.raises(ModelNotFound):
        case.answers("stable")
    case.want("{stable: 4}")
    with pytest.raises(BackendUnavailable):
        case.answers("stable")


def test_what_is_gone_whatever_the_backend_says_does_not_answer() -> None:
    case = Case({2: READY, 3: READY, 4: READY}, "{canary: {3: 1, 4: 1}, stable: 3}")
    assert case.answers("canary", gone=(4,)) == {3}
    assert case.answers(None, gone=(4,)) == {3}
    assert case.answers(4, gone=(4,)) == {4}, "asked for by number: the backend decides"
    with pytest.raises(BackendUnavailable):
        case.answers("stable", gone=(3,))
    with pytest.raises(BackendUnavailable):
        case.answers(None, gone=(2, 3, 4))


def test_the_backend_keeps_what_is_wanted_and_what_is_in_force() -> None:
    case = Case({3: READY}, "{stable: 3, canary: {3: 1, 5: 1}}")
    case.want("{stable: 4}")
    assert case.versions.named() == {"m": frozenset({3, 4})}
    case.now({3: READY, 4: READY})
    assert case.versions.named() == {"m": frozenset({4})}


def test_status_tells_all_of_it() -> None:
    case = Case({3: READY, 4: READY}, "{default: {3: 9, 4: 1}, stable: 3}")
    case.want("{default: {3: 9, 4: 1}, stable: 5}")
    (model,) = case.versions.status()
    assert (model.name, model.default) == ("m", 3)
    assert [each.version for each in model.versions] == [4, 3]
    default, stable = model.labels
    assert (default.label, default.in_force, default.wanted, default.refused) == (
        "default",
        {3: 9, 4: 1},
        {3: 9, 4: 1},
        None,
    )
    assert (stable.label, stable.in_force, stable.wanted) == ("stable", {3: 1}, {5: 1})


def test_a_label_of_a_model_that_is_not_there_harms_nobody() -> None:
    case = Case({3: READY})
    case.want({"other": {"stable": {1: 1}}})
    assert case.answers(None) == {3}
    assert [model.name for model in case.versions.status()] == ["m"]
    assert case.versions.named() == {"other": frozenset({1})}


def test_moves_and_refusals_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="malgil"):
        case = Case({3: READY}, "{stable: 3}")
        case.want("{stable: 4}")
        case.now({3: READY})
        case.now({3: READY, 4: READY})
    told = [(record.levelname, record.getMessage(), record.fields["versions"]) for record in caplog.records]
    assert told == [
        ("INFO", "label in force", {3: 1}),
        ("WARNING", "label refused", {3: 1}),
        ("INFO", "label in force", {4: 1}),
    ]


def test_a_version_is_ready_or_not() -> None:
    case = Case({3: READY, 4: REFUSED})
    ready = case.versions.ready("m", 3)
    assert ready is not None
    assert ready.version == 3
    assert case.versions.ready("m", 4) is case.versions.ready("m", 5) is case.versions.ready("n", 3) is None
