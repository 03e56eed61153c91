"""The house: imports go down only, and TensorFlow stays out of what has no need of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
HEAVY = ("tensorflow", "tensorflow_text", "keras", "sacrebleu")


def test_import_contracts_are_kept() -> None:
    """Layers, independence of rooms and forbidden imports, as ``[tool.importlinter]`` in pyproject.toml says."""
    ran = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 broken" in ran.stdout


@pytest.mark.parametrize(
    "module", ["model_export.contract", "model_export.config", "model_export.cli", "service.cli", "service.bootstrap"]
)
def test_import_loads_no_tensorflow(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = json.loads(ran.stdout)

    assert module.split(".", maxsplit=1)[0] in loaded
    assert not set(HEAVY) & set(loaded)


def test_every_test_file_mirrors_a_source_file_or_tests_the_whole() -> None:
    """``tests/service/test_errors.py`` is about ``service/errors.py``, and a long one may be cut, as
    ``test_embedded_swaps.py`` is; a ``test_docs.py`` is about a page."""
    strays = []
    for room in ("model_export", "service"):
        for path in (REPOSITORY / "tests" / room).rglob("test_*.py"):
            folder, name = REPOSITORY / path.parent.relative_to(REPOSITORY / "tests"), path.stem.removeprefix("test_")
            words = name.split("_")
            sources = [folder / "_".join(words[:count]) for count in range(1, len(words) + 1)]
            is_whole_room = name in (folder.name, "docs", "documentation")
            if not (is_whole_room or any(source.is_dir() or source.with_suffix(".py").is_file() for source in sources)):
                strays.append(str(path.relative_to(REPOSITORY)))

    assert strays == []
