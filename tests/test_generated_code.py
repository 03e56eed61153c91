"""The generated code is that of the .proto files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PROTOS = [str(path.relative_to(REPOSITORY)) for path in sorted((REPOSITORY / "service").rglob("*.proto"))]


def test_the_files_are_found() -> None:
    assert [Path(proto).name for proto in PROTOS] == ["tf_serving.proto", "malgil_v1.proto"]


@pytest.mark.parametrize("proto", PROTOS)
def test_it_is_up_to_date(proto: str, tmp_path: Path) -> None:
    options = [f"--proto_path={REPOSITORY}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    # In a process of its own: the compiler and TensorFlow bring a protobuf library each, and crash one another.
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, proto], check=True)

    generated = sorted((tmp_path / proto).parent.iterdir())
    stem = Path(proto).stem
    assert [path.name for path in generated] == [f"{stem}_pb2.py", f"{stem}_pb2.pyi"]
    for path in generated:
        assert path.read_text() == (REPOSITORY / path.relative_to(tmp_path)).read_text(), f"run make proto: {path.name}"
