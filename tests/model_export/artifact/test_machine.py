"""Export and verification refuse a dtype that this machine has no kernel for, before any work."""

from __future__ import annotations

import pytest

from model_export import contract
from model_export.artifact.machine import MachineError, check_machine
from model_export.contract import CpuFeatures


def test_nothing_is_asked_of_float32() -> None:
    check_machine("float32", CpuFeatures())


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.platform, "machine", lambda: "aarch64")
    with pytest.raises(MachineError, match=r"no kernel for int8: its processor \(.*aarch64\) lacks avx512f, avx512bw;"):
        check_machine("int8", CpuFeatures(("avx512f", "avx512bw")))
