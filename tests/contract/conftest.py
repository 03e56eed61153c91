"""The servers that the contract is held against: the test model server, and a real one where there is one.

``MALGIL_TFS_ADDRESS`` is where a TF Serving answers gRPC, ``MALGIL_TFS_MODELS`` the folder of models that it serves: it
sees it under the same path, and the tests write to it (``toy`` stays there, a list of no models is no configuration).
``MALGIL_TFS_REST_ADDRESS``: where the same one answers REST, if it does.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.model_server_process import QUICK, ModelServerProcess, model_server

if TYPE_CHECKING:  # it needs TensorFlow, and not every test here does
    from tests.support.model_server_client import Served

ADDRESS = os.environ.get("MALGIL_TFS_ADDRESS", "")
MODELS = os.environ.get("MALGIL_TFS_MODELS", "")
REST_ADDRESS = os.environ.get("MALGIL_TFS_REST_ADDRESS", "")
KINDS = ["test server", *(["TF Serving"] if ADDRESS and MODELS else [])]


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with versions 1 to 3 of ``toy``; tests must not change it."""
    from tests.support.model_server_toys import export_toy

    root = tmp_path_factory.mktemp("toys")
    for version in (1, 2, 3):
        export_toy(root, version=version)
    return root


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def server(kind: str, toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with version 1 of ``toy``."""
    from tests.support.model_server_client import Served, add_version

    if kind == "TF Serving":
        served = Served(ADDRESS, Path(MODELS), REST_ADDRESS)
        if not (served.root / "toy").exists():
            add_version(served.root / "toy", toys, 1)
        served.reload()
        yield served
        served.close()
        return
    root = tmp_path_factory.mktemp("served")
    add_version(root / "toy", toys, 1)
    with model_server(root, *QUICK, "--rest_api_port=-1") as process:
        served = Served(process.address, root, process.rest_address)
        yield served
        served.close()


@pytest.fixture
def model(server: Served, toys: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a model of the test's own, with version 1."""
    from tests.support.model_server_client import add_version

    name = request.node.originalname.removeprefix("test_")
    add_version(server.root / name, toys, 1)
    server.reload({"name": name})
    yield name
    shutil.rmtree(server.root / name)
    server.reload()


@pytest.fixture
def tries_once(kind: str) -> None:
    """A load that fails is not tried again."""
    if kind == "TF Serving":
        pytest.skip("without --max_num_load_retries=0 it tries a load again for five minutes")


Start = Callable[..., "tuple[ModelServerProcess, Served]"]


@pytest.fixture
def start(kind: str, toys: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts servers of the test's own, with flags and with version 1 of ``toy``."""
    with contextlib.ExitStack() as stack:
        yield functools.partial(_start, stack, kind, toys, tmp_path)


@pytest.fixture(scope="session")
def shared(kind: str, toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """As ``start``; who asks for the same flags gets the same server, and must leave it as it was."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda *flags: _start(stack, kind, toys, tmp_path_factory.mktemp("shared"), *flags))


def _start(
    stack: contextlib.ExitStack, kind: str, toys: Path, folder: Path, *flags: str
) -> tuple[ModelServerProcess, Served]:
    from tests.support.model_server_client import Served, add_version

    if kind == "TF Serving":
        pytest.skip(f"needs a server of its own, started with {' '.join(flags) or 'no flags'}")
    add_version(folder / "toy", toys, 1)
    process = stack.enter_context(model_server(folder, *QUICK, *flags))
    served = Served(process.address, folder)
    stack.callback(served.close)
    return process, served
