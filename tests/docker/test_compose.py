"""What can be said of docker-compose.yml without an engine; tests/containers runs it."""

from __future__ import annotations

import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import ENVIRONMENT_PREFIX, Settings
from service.transport.http_server import LAST_WRITES_S
from tests.support.dockerfiles import OURS, REPOSITORY, read_stages

COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = [name for name in SERVICES if name != "export"]
MODELS = ["en-fr", "korean-chat"]


def plain(text: Any) -> str:
    """With the defaults in place of variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text))


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


def settings_of(name: str) -> Settings:
    """As the server in this container has them."""
    (image,) = [
        stages[-1]
        for our in OURS
        if SERVICES[name]["image"].startswith(f"malgil/{our}:")
        for stages in [read_stages(our)]
    ]
    environment = image.environment | SERVICES[name]["environment"]
    return Settings(
        **{
            key.removeprefix(ENVIRONMENT_PREFIX).lower(): value
            for key, value in environment.items()
            if key.startswith(ENVIRONMENT_PREFIX)
        }
    )


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].partition(":")

    if image.startswith("malgil/"):
        assert tag == version("malgil")
        assert SERVICES[name]["build"]["dockerfile"] == f"docker/{image.removeprefix('malgil/')}.Dockerfile"
    else:
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), "a version, whole"
        assert "build" not in SERVICES[name]


@pytest.mark.parametrize("name", SERVICES)
def test_containers_may_do_little_and_take_little(name: str) -> None:
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & service.keys()
    assert limits.keys() == {"cpus", "memory", "pids"}
    assert all(limits.values())
    assert all("size=" in each for each in service.get("tmpfs", []))
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


def test_what_writes_to_the_models_and_what_reads_them_is_no_root() -> None:
    assert {read_stages(name)[-1].texts("USER")[0] for name in OURS} == {SERVICES["tf-serving"]["user"]}
    modes = {
        (name, volume.count(":") > 1 and volume.endswith(":ro"))
        for name, service in SERVICES.items()
        for volume in service.get("volumes", [])
        if volume.startswith("models:")
    }
    assert modes == {("export", False), ("tf-serving", True), ("standalone", True)}


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_restarted_and_watched(name: str) -> None:
    service = SERVICES[name]
    check = service["healthcheck"]

    assert service["restart"] == "unless-stopped"
    assert check.keys() == {"test", "interval", "timeout", "retries", "start_period"}
    assert check["test"][0] == "CMD"
    assert "curl" not in check["test"]
    assert seconds(check["timeout"]) <= seconds(check["interval"])


def test_servers_are_asked_as_their_images_ask() -> None:
    for name in ("gateway", "standalone"):
        (check,) = read_stages(name)[-1].texts("HEALTHCHECK")
        assert yaml.safe_load(check.partition("CMD ")[2]) == SERVICES[name]["healthcheck"]["test"][1:]


def test_one_starts_when_what_it_needs_is_there() -> None:
    needs = {
        name: {other: condition["condition"] for other, condition in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }

    assert needs == {
        "export": {},
        "tf-serving": {"export": "service_completed_successfully"},
        "gateway": {"tf-serving": "service_healthy"},
        "standalone": {"export": "service_completed_successfully"},
        "prometheus": {},
        "grafana": {"prometheus": "service_healthy"},
    }
    assert SERVICES["export"]["restart"] == "no"


def test_profiles() -> None:
    assert {name: service.get("profiles", []) for name, service in SERVICES.items()} == {
        "export": [],
        "tf-serving": [],
        "gateway": [],
        "standalone": ["standalone"],
        "prometheus": ["observability"],
        "grafana": ["observability"],
    }


@pytest.mark.parametrize("name", ["gateway", "standalone"])
def test_what_was_accepted_has_time_to_be_answered(name: str) -> None:
    settings = settings_of(name)
    assert settings.drain_timeout_s * 1000 >= settings.default_timeout_ms
    assert seconds(SERVICES[name]["stop_grace_period"]) >= settings.drain_timeout_s + LAST_WRITES_S + 5.0


def test_settings_are_settings_and_servers_listen_where_ports_lead() -> None:
    ports = {name: [plain(port) for port in service.get("ports", [])] for name, service in SERVICES.items()}

    for name in ("gateway", "standalone"):
        settings = settings_of(name)
        assert settings.host == "0.0.0.0"
        assert [int(port.rpartition(":")[2]) for port in ports[name]] == [settings.port, settings.grpc_port]
    assert ports["gateway"] == ["127.0.0.1:8000:8000", "127.0.0.1:9000:9000"]
    every = [port for each in ports.values() for port in each]
    assert all(port.startswith("127.0.0.1:") for port in every), "nobody is asked who they are"
    assert len({port.split(":")[1] for port in every}) == len(every)


def test_the_shipped_models_are_exported_served_and_labelled() -> None:
    config = (REPOSITORY / "docker" / "tf-serving" / "models.config").read_text(encoding="utf-8")
    labels = yaml.safe_load((REPOSITORY / "docker" / "labels" / "labels.yaml").read_text(encoding="utf-8"))

    assert sorted(path.parent.name for path in (REPOSITORY / "models").glob("*/config.yaml")) == MODELS
    assert SERVICES["export"]["command"] == MODELS
    assert plain(SERVICES["export"]["environment"]["MALGIL_DTYPE"]) == "int8"
    assert settings_of("gateway").tf_serving_models.split(",") == MODELS
    assert re.findall(r'name: "(.*)"', config) == MODELS
    assert re.findall(r'base_path: "(.*)"', config) == [f"/models/{name}" for name in MODELS]
    assert config.count("latest { num_versions: 2 }") == len(MODELS), "else none answers while a new one is certified"
    assert labels == {name: {"stable": 1} for name in MODELS}


def test_tf_serving_is_started_with_the_flags_that_are_kept_for_it() -> None:
    service = SERVICES["tf-serving"]
    (command,) = service["command"]
    flags = (REPOSITORY / "docker" / "tf-serving.flags").read_text(encoding="utf-8").splitlines()
    cores = settings_of("gateway").tf_serving_concurrent_runs

    assert service["entrypoint"] == ["/bin/bash", "-c"]
    assert command.split() == [
        "exec",
        "tensorflow_model_server",
        "--port=8500",
        "--rest_api_port=8501",
        "--model_config_file=/etc/tf-serving/models.config",
        "$$(cat",
        "/etc/tf-serving.flags)",
    ]
    assert "./docker/tf-serving.flags:/etc/tf-serving.flags:ro" in service["volumes"]
    assert f"--tensorflow_inter_op_parallelism={cores}" in flags
    assert float(service["deploy"]["resources"]["limits"]["cpus"]) == cores
    assert service["environment"] == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    assert service["init"] is True, "as process 1 it would not be ended by SIGTERM"


def test_only_the_gateway_reaches_tf_serving() -> None:
    assert COMPOSE["networks"]["models"] == {"internal": True}
    assert [name for name, service in SERVICES.items() if "models" in service.get("networks", [])] == [
        "tf-serving",
        "gateway",
    ]
    assert SERVICES["tf-serving"]["networks"] == ["models"]
    assert "ports" not in SERVICES["tf-serving"]
    assert SERVICES["export"]["network_mode"] == "none"


def test_files_that_are_mounted_exist_and_cannot_be_written() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, _, rest = plain(volume).partition(":")
            if source.startswith("."):
                assert (REPOSITORY / source).exists(), source
                assert rest.endswith(":ro"), volume
            else:
                assert source in COMPOSE["volumes"]


def test_folders_that_pages_mount_are_absolute() -> None:
    """``docker compose run --volume`` takes a relative one for the name of a volume, and fails."""
    pages = [(REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("deployment", "operations")]
    mounted = [folder for page in pages for folder in re.findall(r'--volume "?([^":\s]+)', page)]

    assert len(mounted) >= 4
    assert [folder for folder in mounted if not folder.startswith(("/", "$PWD/"))] == []


def test_without_an_engine_containers_are_said_loudly_not_to_be_tested(tmp_path: Path) -> None:
    no_engine = tmp_path / "docker"
    no_engine.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    no_engine.chmod(0o755)
    ran = subprocess.run(
        ["make", "--old-file", ".venv/.installed", "test-containers"],
        cwd=REPOSITORY,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0
    assert "CONTAINERS WERE NOT TESTED" in ran.stderr
