"""Who takes part in ``service``: every server by its name, all with the weights of one trained model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.peers import builds
from benchmarks.servers import REPOSITORY, Server, started
from model_export.trained_model import TOKENIZER_FILE
from service.cli.memory_allocator import environment_for_models

TF_SERVING_FLAGS = REPOSITORY / "docker" / "tf-serving.flags"
HUGE_PAGES: Final[Mapping[str, str]] = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Of servers whose memory allocator is glibc's: those of others."""
ENVIRONMENT: Final[Mapping[str, str]] = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
"""Of all servers alike."""


@dataclass(frozen=True)
class Setup:
    """What the servers are started with."""

    model: Path  # a trained model's folder
    calibration: Path  # pairs to measure static scales by
    cores: Collection[int]
    tf_serving: str | None = None  # address of a model server that is there already
    batched_options: Sequence[str] = ()  # of ``serving.ctranslate2_batched``

    def start(self, module: str, *arguments: object, **environment: str) -> AbstractContextManager[Server]:
        """``python -m module`` on the cores."""
        return started(module, *arguments, cores=self.cores, **ENVIRONMENT, **environment)

    def artifacts(self) -> Path:
        """The folder of models with our artifact."""
        return builds.artifact(self.model, "int8", self.calibration).parents[1]


@dataclass(frozen=True)
class Running:
    """A contender that listens."""

    port: int
    pids: Sequence[int]  # of the processes that it consists of, as far as they are here


Contender = Callable[[Setup], AbstractContextManager[Running]]


@contextmanager
def embedded(setup: Setup) -> Iterator[Running]:
    """``malgil serve`` with the model in its process."""
    arguments = ("serve", "--models", setup.artifacts(), "--port", 0, "--grpc-port", -1)
    with setup.start("service", *arguments) as server:
        yield Running(server.port, [server.pid])


@contextmanager
def tf_serving(setup: Setup) -> Iterator[Running]:
    """``malgil serve`` in front of a model server: that of the tests, with the flags that we ship, or one given.

    That of the tests has the memory allocator that ``embedded`` takes, as what is compared is how models are called.
    """
    if setup.tf_serving is not None:
        with _gateway(setup, setup.tf_serving) as gateway:
            yield Running(gateway.port, [gateway.pid])
        return
    flags = TF_SERVING_FLAGS.read_text().split()
    arguments = (f"--model_base_path={setup.artifacts()}", "--port=0", *flags)
    with (
        setup.start("tests.support.model_server", *arguments, **environment_for_models({})) as model_server,
        _gateway(setup, f"127.0.0.1:{model_server.port}") as gateway,
    ):
        yield Running(gateway.port, [gateway.pid, model_server.pid])


def _gateway(setup: Setup, address: str) -> AbstractContextManager[Server]:
    where = ("--backend", "tf-serving", "--tf-serving-addresses", address, "--tf-serving-models", setup.model.name)
    return setup.start("service", "serve", *where, "--port", 0, "--grpc-port", -1)


@contextmanager
def _peer(setup: Setup, server: str, folder: Path, options: Sequence[str] = ()) -> Iterator[Running]:
    arguments = (server, folder, setup.model / TOKENIZER_FILE, *options)
    with setup.start("benchmarks.peers.serving", *arguments, **HUGE_PAGES) as process:
        yield Running(process.port, [process.pid])


SERVED: Final[Mapping[str, Contender]] = {
    "embedded": embedded,
    "tf-serving": tf_serving,
    "ct2-documented": lambda setup: _peer(setup, "ctranslate2_documented", builds.ctranslate2(setup.model)),
    "ct2-batched": lambda setup: _peer(
        setup, "ctranslate2_batched", builds.ctranslate2(setup.model), setup.batched_options
    ),
    "hf": lambda setup: _peer(setup, "hugging_face", builds.hugging_face(setup.model)),
}


def known(contenders: Iterable[str]) -> list[str]:
    """The names, all of contenders.

    Raises:
        SystemExit: there is none of a name.
    """
    found = list(contenders)
    if unknown := [name for name in found if name not in SERVED]:
        raise SystemExit(f"no contender {', '.join(unknown)}: there are {', '.join(SERVED)}")
    return found
