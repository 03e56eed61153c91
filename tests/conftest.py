"""Fixtures that several rooms share."""

from __future__ import annotations

import pathlib
import signal

import pytest

from model_export.contract import unsupported_here

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


@pytest.fixture(scope="session")
def int8_root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """``tiny-transformer/1`` in int8 with static scales, without a tokenizer in its graph; tests must not change it."""
    from model_export.calibration import calibrate
    from model_export.export import CPU_FEATURES, export_model
    from tests.support.tiny_models import CORPUS, TRANSFORMER, tiny_model

    if (reason := unsupported_here("int8", CPU_FEATURES["int8"])) is not None:
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("int8")
    (root / "pairs.tsv").write_text("".join(f"{text}\t{text}\n" for text in CORPUS), encoding="utf-8")
    trained = tiny_model(TRANSFORMER)
    scales = calibrate(trained, root / "pairs.tsv")
    (root / "pairs.tsv").unlink()  # a folder of models holds nothing else
    export_model(trained, root, "tiny-transformer", ids_only=True, dtype="int8", scales=scales)
    return root
