"""The exported models in sessions, as TF Serving runs them; a first call takes seconds, so they are shared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from model_export.artifact.calls import Signature
from model_export.artifact.reloaded import in_session

Signatures = Mapping[str, Signature]


@pytest.fixture(scope="session")
def transformer(artifact_root: Path) -> Iterator[Signatures]:
    with in_session(artifact_root / "tiny-transformer" / "1") as signatures:
        yield signatures


@pytest.fixture(scope="session")
def rnn(artifact_root: Path) -> Iterator[Signatures]:
    with in_session(artifact_root / "tiny-rnn" / "1") as signatures:
        yield signatures


@pytest.fixture(params=["transformer", "rnn"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def signatures(name: str, request: pytest.FixtureRequest) -> Signatures:
    return request.getfixturevalue(name)
