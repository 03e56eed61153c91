"""What TF Serving does when the file of its configuration changes (``--model_config_file_poll_wait_seconds``).

Only on the test model server: a real one reads a file of its own, against which the reloads of ``test_tf_serving.py``
would work.
"""

from __future__ import annotations

import os
import shutil

import grpc
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.support.model_server_client import Served, add_version, eventually
from tests.support.model_server_process import model_server

FLAGS = (
    "--file_system_poll_wait_seconds=0.05",
    "--model_config_file_poll_wait_seconds=0.1",
    "--allow_version_labels_for_unavailable_models=true",
    "--max_num_load_retries=1000",
    "--load_retry_interval_micros=100000",
    "--rest_api_port=-1",
)


class Configuration:
    """A file of which a server reads its models; ``toy`` is always there."""

    def __init__(self, path, root):
        self.path = path
        self.root = root
        self.write()

    def write(self, *models):
        """Each a ModelConfig by its fields; a name is enough."""
        config = model_server_config_pb2.ModelServerConfig()
        for model in ({"name": "toy"}, *models):
            defaults = {"base_path": str(self.root / model["name"]), "model_platform": "tensorflow"}
            config.model_config_list.config.add(**{**defaults, **model})
        self.write_bytes(text_format.MessageToString(config).encode())

    def write_bytes(self, content):
        """At once, as a mounted ConfigMap changes."""
        new = self.path.with_suffix(".new")
        new.write_bytes(content)
        os.replace(new, self.path)


@pytest.fixture(scope="module")
def process_and_file(toys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("configured")
    add_version(folder / "models" / "toy", toys, 1)
    file = Configuration(folder / "models.config", folder / "models")
    with model_server(file.root, f"--model_config_file={file.path}", *FLAGS) as process:
        yield process, file


@pytest.fixture
def process(process_and_file):
    return process_and_file[0]


@pytest.fixture
def file(process_and_file):
    return process_and_file[1]


@pytest.fixture
def server(process):
    served = Served(process.address, process.root, process.rest_address)
    yield served
    served.close()


@pytest.fixture
def model(server, file, toys, request):
    """The name of a model of the test's own, with version 1."""
    name = request.node.originalname.removeprefix("test_")
    add_version(server.root / name, toys, 1)
    file.write({"name": name})
    eventually(lambda: is_answered(server, name), "the model")
    yield name
    file.write()
    eventually(lambda: server.available(name) == [], "its removal")
    shutil.rmtree(server.root / name)


def factor(server, model, **spec):
    """Which version answers."""
    return tf.make_ndarray(server.predict(model, spec=spec, x=[1.0]).outputs["y"]).item()


def is_answered(server, model):
    try:
        return factor(server, model) == 1.0
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        return False


def of_versions(*versions):
    return {"model_version_policy": {"specific": {"versions": versions}}}


@pytest.fixture
def eventually_logged(process):
    """Waits until a line has been written since the test began."""
    known = len(process.log)
    return lambda text: eventually(lambda: any(text in line for line in process.log[known:]), f"a line with {text!r}")


def test_models_come_and_go(server, file, model, toys):
    add_version(server.root / "added", toys, 1)
    file.write({"name": "added"})
    eventually(lambda: is_answered(server, "added"), "the new model")
    eventually(lambda: server.available(model) == [], "the end of the other")
    assert server.refusal(model, x=[1.0]) == (
        grpc.StatusCode.NOT_FOUND,
        f"Servable not found for request: Latest({model})",
    )
    file.write({"name": model})
    eventually(lambda: is_answered(server, model), "its return")


def test_a_policy_is_followed(server, file, model, toys):
    add_version(server.root / model, toys, 2)
    eventually(lambda: server.available(model) == [2], "the latest, as nothing else is said")
    file.write({"name": model, **of_versions(1, 2)})
    eventually(lambda: server.available(model) == [2, 1], "both")
    file.write({"name": model, **of_versions(1)})
    eventually(lambda: server.available(model) == [1], "the old one alone")
    assert factor(server, model) == 1.0


def test_labels_are_moved(server, file, model, toys):
    add_version(server.root / model, toys, 2)
    file.write({"name": model, **of_versions(1, 2)})
    eventually(lambda: server.available(model) == [2, 1], "both")
    file.write({"name": model, **of_versions(1, 2), "version_labels": {"stable": 1}})
    eventually(lambda: not is_refused(server, model, "stable"), "the label")
    assert factor(server, model, version_label="stable") == 1.0
    file.write({"name": model, **of_versions(1, 2), "version_labels": {"stable": 2}})
    eventually(lambda: factor(server, model, version_label="stable") == 2.0, "its move")
    file.write({"name": model, **of_versions(1, 2)})
    eventually(lambda: is_refused(server, model, "stable"), "its end")


def is_refused(server, model, label):
    """As a label of which nothing is known."""
    try:
        server.predict(model, spec={"version_label": label}, x=[1.0])
    except grpc.RpcError as error:
        return error.details() == f"Unrecognized servable version label: {label}"
    return False


def test_a_new_label_may_name_a_version_that_is_not_there_yet(server, file, model, toys):
    """With ``--allow_version_labels_for_unavailable_models``."""
    file.write({"name": model, **of_versions(1, 2), "version_labels": {"next": 2}})
    eventually(lambda: not is_refused(server, model, "next"), "the label")
    assert server.refusal(model, spec={"version_label": "next"}, x=[1.0]) == (
        grpc.StatusCode.NOT_FOUND,
        f"Servable not found for request: Specific({model}, 2)",
    )
    add_version(server.root / model, toys, 2)
    eventually(lambda: server.available(model) == [2, 1], "the version")
    assert factor(server, model, version_label="next") == 2.0


def test_a_label_moves_to_what_is_available_only_and_else_keeps_the_whole_change_out(
    server, file, model, toys, eventually_logged
):
    """Even with ``--allow_version_labels_for_unavailable_models``: labels are looked at before anything is loaded."""
    file.write({"name": model, **of_versions(1), "version_labels": {"stable": 1}})
    eventually(lambda: not is_refused(server, model, "stable"), "the label")
    add_version(server.root / model, toys, 2)
    file.write({"name": model, **of_versions(1, 2), "version_labels": {"stable": 2}})
    eventually_logged(f"version 2 of model {model}, which is not currently available for inference")
    assert set(server.status(model)) == {1}
    assert factor(server, model, version_label="stable") == 1.0
    file.write({"name": model, **of_versions(1, 2), "version_labels": {"stable": 1}})
    eventually(lambda: server.available(model) == [2, 1], "both")
    file.write({"name": model, **of_versions(1, 2), "version_labels": {"stable": 2}})
    eventually(lambda: factor(server, model, version_label="stable") == 2.0, "its move")


TWICE = b"config { name: 'toy' base_path: '/toy' model_platform: 'tensorflow' } " * 2


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"model_config_list { config { name: ", "Failed to read ModelServerConfig file"),
        (b"\xff\xfe", "Failed to read ModelServerConfig file"),
        (None, "Failed to read ModelServerConfig file"),
        (b"", "PollFilesystemAndReloadConfig failed to ReloadConfig"),
        (b"model_config_list { " + TWICE + b" }", "Illegal to list model toy multiple times in config list"),
        (
            b"model_config_list { config { name: 'toy' base_path: 'toy' model_platform: 'tensorflow' } }",
            "Expected model toy to have an absolute path",
        ),
    ],
    ids=["half a file", "no text", "no file", "empty", "twice", "relative path"],
)
def test_what_is_no_configuration_changes_nothing(server, file, toys, eventually_logged, content, line):
    if content is None:
        file.path.unlink()
    else:
        file.write_bytes(content)
    eventually_logged(line)
    assert factor(server, "toy") == 1.0
    if not (server.root / "later").exists():
        add_version(server.root / "later", toys, 1)
    file.write({"name": "later"})
    eventually(lambda: is_answered(server, "later"), "what is written next")
    file.write()
    eventually(lambda: server.available("later") == [], "its removal")


def test_a_missing_folder_keeps_everything_as_it_is_until_it_is_there(server, file, model, toys, eventually_logged):
    file.write({"name": model}, {"name": "missing"})
    eventually_logged(f"Could not find base path {server.root / 'missing'}")
    add_version(server.root / model, toys, 2)
    file.write({"name": model, "version_labels": {"old": 1}}, {"name": "missing"})
    with pytest.raises(AssertionError, match="not within"):
        eventually(lambda: 2 in server.status(model) or not is_refused(server, model, "old"), "a change", 0.5)
    assert factor(server, model) == 1.0
    add_version(server.root / "missing", toys, 1)
    eventually(lambda: is_answered(server, "missing"), "the model whose folder was missing")
    eventually(lambda: server.available(model) == [2], "the new version")
    eventually(lambda: not is_refused(server, model, "old"), "the label")


def test_a_version_that_is_half_there_is_loading_until_it_is_complete(server, model, toys):
    """Its load is tried again and again, and the one before answers."""
    version = add_version(server.root / model, toys, 2, lacks="saved_model.pb")
    eventually(lambda: 2 in server.status(model), "the version")
    code, body = server.get(f"/v1/models/{model}/versions/2")
    loading = {"version": "2", "state": "LOADING", "status": {"error_code": "OK", "error_message": ""}}
    assert (code, body) == (200, {"model_version_status": [loading]})
    assert factor(server, model) == 1.0
    shutil.copy(toys / "toy" / "2" / "saved_model.pb", version / "rest")
    (version / "rest").rename(version / "saved_model.pb")
    eventually(lambda: server.available(model) == [2], "the complete version")
