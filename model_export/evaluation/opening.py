"""Which model is meant, and the model; TensorFlow is imported only for those that run in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

from model_export.config import CONFIG_FILE
from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET
from model_export.evaluation.remote import Address, RemoteSubject
from model_export.evaluation.subject import EvaluationError, Subject
from model_export.text.progress import OnProgress

Place: TypeAlias = Path | Address


def is_address(text: str) -> bool:
    """Whether it means a service, not a folder."""
    return text.startswith(("http://", "https://"))


def place(text: str, model: str | None = None, version: str | None = None) -> Place:
    """Where the model is; ``model`` and ``version`` are for what ``text`` does not say.

    Raises:
        EvaluationError: it can be no model's folder or address.
    """
    if is_address(text):
        return Address.parse(text, model, version)
    return chosen_folder(Path(text), None if version is None else int(version))


def chosen_folder(path: Path, version: int | None = None) -> Path:
    """The artifact or trained model that ``path`` is, or of the versions in it this one, or the newest.

    Raises:
        EvaluationError: it is none of these.
    """
    if (path / CONFIG_FILE).is_file() or (path / ASSETS_FOLDER / MANIFEST_ASSET).is_file():
        return path
    versions = {int(each.name): each for each in path.iterdir() if each.name.isdecimal()} if path.is_dir() else {}
    if not versions:
        raise EvaluationError(f"{path} is neither an artifact, nor a folder of its versions, nor a trained model")
    number = max(versions) if version is None else version
    if number not in versions:
        raise EvaluationError(f"{path} has no version {number}: it has {', '.join(map(str, sorted(versions)))}")
    return versions[number]


@contextmanager
def opened_subjects(
    places: Sequence[Place], timeout_s: float, batch_size: int, on_progress: OnProgress
) -> Iterator[list[Subject]]:
    """While entered, the models in this order.

    Raises:
        UserError: one cannot be read, or does not answer.
    """
    with ExitStack() as stack:
        subjects: list[Subject] = []
        for each in places:
            if isinstance(each, Address):
                on_progress(f"connecting to {each.url}", 0, 0)
                subjects.append(RemoteSubject.connect(each, timeout_s, batch_size))
            else:
                on_progress(f"reading {each}", 0, 0)
                from model_export.evaluation.local import local_subject

                subjects.append(stack.enter_context(local_subject(each, f"{each}")))
        yield subjects
