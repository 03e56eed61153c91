"""Who takes part: every engine by its name, with what it runs made from one trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.peers import builds
from benchmarks.peers.worker import Worker


@dataclass(frozen=True)
class Contender:
    """One engine with one dtype."""

    name: str
    engine: str  # a function of ``engines``
    build: Callable[[Path], Path]  # of a trained model's folder: what the engine loads
    arguments: tuple[str, ...] = ()  # of the engine, behind the folder
    is_exact: bool = False  # computes in float32, and must say what the others say that do
    most_rounds: int | None = None  # for whose calls take seconds


_FEW_ROUNDS = 3
OURS = (
    Contender("float32", "malgil", partial(builds.artifact, dtype="float32"), is_exact=True),
    Contender("bfloat16", "malgil", partial(builds.artifact, dtype="bfloat16")),
    Contender("int8", "malgil", partial(builds.artifact, dtype="int8")),
    Contender("int8-static", "malgil", builds.calibrated_artifact),
)
NAIVE = Contender("naive", "naive", lambda model: model, is_exact=True, most_rounds=_FEW_ROUNDS)
PEERS = (
    Contender("ct2-float32", "ctranslate2", builds.ctranslate2, ("float32",), is_exact=True),
    Contender("ct2-int8", "ctranslate2", builds.ctranslate2, ("int8",)),
    Contender("hf-float32", "hugging_face", builds.hugging_face, ("float32",), is_exact=True, most_rounds=_FEW_ROUNDS),
    Contender("hf-int8", "hugging_face", builds.hugging_face, ("int8",), most_rounds=_FEW_ROUNDS),
)
CONTENDERS = {contender.name: contender for contender in (*OURS, NAIVE, *PEERS)}


def named(names: Iterable[str]) -> list[Contender]:
    """The contenders of these names.

    Raises:
        SystemExit: there is none of a name.
    """
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise SystemExit(f"no contender {', '.join(unknown)}: there are {', '.join(CONTENDERS)}")
    return [CONTENDERS[name] for name in names]


@contextmanager
def running(contenders: Sequence[Contender], model: Path, core: int) -> Iterator[dict[str, Worker]]:
    """A worker for each contender, all with the weights of one trained model."""
    folders = [contender.build(model) for contender in contenders]
    with ExitStack() as stack:
        workers = {}
        for contender, folder in zip(contenders, folders, strict=True):
            workers[contender.name] = Worker(contender.engine, [folder, *contender.arguments], core)
            stack.callback(workers[contender.name].close)
        yield workers
