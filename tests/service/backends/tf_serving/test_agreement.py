from dataclasses import replace

from model_export.contract import Profile
from service.backend import VersionState
from service.backends.scripted import scripted_manifest
from service.backends.tf_serving.agreement import DIFFERS, Agreement, Artifact, Word, agree

LOADING, READY, REFUSED = VersionState.LOADING, VersionState.READY, VersionState.REFUSED
ARTIFACT = Artifact(scripted_manifest("echo"), b"tokenizer")
OTHER = replace(ARTIFACT, tokenizer=b"another")


def _ready(artifact=ARTIFACT):
    return Word(READY, None, artifact)


def _agree(before=None, **said):
    """What comes of words on version 1 of ``echo``, by replica."""
    return agree({address: {("echo", 1): word} for address, word in said.items()}, before or Agreement())


def test_versions_come_by_name_newest_first():
    said = {"a": {("b", 1): _ready(), ("a", 1): _ready()}, "b": {("a", 10): _ready(), ("a", 2): _ready()}}
    found = agree(said, Agreement())
    assert [(each.name, each.version) for each in found.versions] == [("a", 10), ("a", 2), ("a", 1), ("b", 1)]
    assert found.ready == {("a", 10): ("b",), ("a", 2): ("b",), ("a", 1): ("a",), ("b", 1): ("a",)}


def test_one_replica_that_is_ready_is_enough():
    found = _agree(a=Word(LOADING, "soon"), b=_ready(), c=Word(REFUSED, "broken"))
    (version,) = found.versions
    assert (version.state, version.reason) == (READY, None)
    assert (version.manifest, version.tokenizer) == (ARTIFACT.manifest, ARTIFACT.tokenizer)
    assert version.replicas == {"a": "loading: soon", "b": "ready", "c": "refused: broken"}
    assert found.ready == {("echo", 1): ("b",)}


def test_while_one_is_loading_there_is_hope():
    (version,) = _agree(a=Word(LOADING, "soon", ARTIFACT), b=Word(REFUSED, "broken"), c=Word(LOADING, "soon")).versions
    assert (version.state, version.reason, version.manifest) == (LOADING, "soon", None)


def test_what_all_refuse_is_refused_with_every_reason():
    (version,) = _agree(a=Word(REFUSED, "broken"), b=Word(REFUSED, "differs")).versions
    assert (version.state, version.reason) == (REFUSED, "broken; differs")


def test_a_replica_with_another_artifact_stays_out():
    found = _agree(a=_ready(), b=_ready(OTHER), c=_ready())
    assert found.ready == {("echo", 1): ("a", "c")}
    assert found.versions[0].replicas["b"] == f"refused: {DIFFERS}"
    assert found.versions[0].tokenizer == ARTIFACT.tokenizer


def test_what_has_served_goes_on_whatever_newcomers_have():
    before = _agree(b=_ready())
    found = _agree(before, a=_ready(OTHER), b=_ready())
    assert found.ready == {("echo", 1): ("b",)}
    assert found.versions[0].tokenizer == ARTIFACT.tokenizer


def test_when_the_last_with_the_old_artifact_is_gone_the_new_one_serves():
    before = _agree(_agree(b=_ready()), a=_ready(OTHER), b=_ready())
    found = _agree(before, a=_ready(OTHER), b=Word(LOADING, "gone", ARTIFACT))
    assert found.ready == {("echo", 1): ("a",)}
    assert found.versions[0].tokenizer == OTHER.tokenizer


def test_nothing_said_is_nothing_there():
    assert agree({"a": {}}, _agree(a=_ready())) == Agreement()


def test_replicas_with_unlike_profiles_are_one_model():
    measured = Artifact(replace(ARTIFACT.manifest, profile=Profile("a CPU", 1, "2.21.0", ())), ARTIFACT.tokenizer)
    found = _agree(a=_ready(), b=_ready(measured))
    assert found.ready == {("echo", 1): ("a", "b")}
    assert found.versions[0].manifest.profile is None, "that of the first"
    found = _agree(found, a=_ready(measured), b=_ready(measured))
    assert found.versions[0].manifest == measured.manifest
