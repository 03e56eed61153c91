"""Fixtures that several rooms share."""

from __future__ import annotations

import pathlib
import signal

import pytest

# A shell ignores SIGINT for what it starts in the background, and every process of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def artifact_root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of exported models, ``tiny-transformer/1`` and ``tiny-rnn/1``; tests must not change it."""
    from model_export.export import export_model  # here, so that other tests start without TensorFlow
    from tests.support.tiny_models import RNN, TRANSFORMER, tiny_model

    root = tmp_path_factory.mktemp("models")
    for name, config in (("tiny-transformer", TRANSFORMER), ("tiny-rnn", RNN)):
        export_model(tiny_model(config), root, name)
    return root


@pytest.fixture(scope="session")
def ids_only_root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The same ``tiny-transformer/1`` without a tokenizer in its graph; tests must not change it."""
    from model_export.export import export_model
    from tests.support.tiny_models import TRANSFORMER, tiny_model

    root = tmp_path_factory.mktemp("ids-only")
    export_model(tiny_model(TRANSFORMER), root, "tiny-transformer", ids_only=True)
    return root
