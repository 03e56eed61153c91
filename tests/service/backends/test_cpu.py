"""Whether an artifact runs on this machine is known before TensorFlow tries it."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from model_export import contract
from model_export.contract import ASSETS_FOLDER, MANIFEST_ASSET, CpuFeatures
from service.backends.cpu import check_machine
from service.backends.scripted_artifact import scripted_manifest
from service.errors import BackendFailed

INT8 = CpuFeatures(("avx512f", "avx512_vnni"))
BFLOAT16 = CpuFeatures(("avx512f",), fast=("avx512_bf16", "amx_bf16"))


@pytest.fixture
def artifact(tmp_path):
    """Writes what an artifact's manifest says, and gives its folder."""

    def write(**changes):
        (tmp_path / ASSETS_FOLDER).mkdir()
        manifest = replace(scripted_manifest("en-fr"), **changes)
        (tmp_path / ASSETS_FOLDER / MANIFEST_ASSET).write_text(manifest.to_json(), encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """Gives this machine other processor flags."""

    def fake(told):
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(f"model name\t: Old Xeon\nflags\t\t: {told}\n")
        monkeypatch.setattr(contract, "_CPUINFO", str(cpuinfo))
        monkeypatch.setattr(contract.platform, "machine", lambda: "x86_64")

    return fake


def test_a_processor_without_a_kernel_is_refused_with_what_it_lacks_and_what_would_help(artifact, flags):
    flags("fpu sse2 avx512f avx512_bf16")
    with pytest.raises(BackendFailed) as refused:
        check_machine(artifact(dtype="int8", cpu_features=INT8))
    assert str(refused.value) == (
        "this machine has no kernel for int8: its processor (Old Xeon x86_64) lacks avx512_vnni; "
        "what `malgil-export export --dtype float32` writes runs here"
    )


def test_a_processor_with_all_features_passes(artifact, flags, caplog):
    flags("fpu sse2 avx512f avx512_vnni")
    check_machine(artifact(dtype="int8", cpu_features=INT8))
    assert not caplog.records


@pytest.mark.parametrize(("told", "warnings"), [("avx512f", 1), ("avx512f amx_bf16", 0), ("avx512f avx512_bf16", 0)])
def test_a_processor_that_emulates_the_dtype_is_told(artifact, flags, caplog, told, warnings):
    flags(told)
    with caplog.at_level(logging.WARNING):
        check_machine(artifact(dtype="bfloat16", cpu_features=BFLOAT16))
    reasons = [record.fields["reason"] for record in caplog.records]
    assert reasons == ["this processor (Old Xeon) has none of avx512_bf16, amx_bf16, which bfloat16 wants"] * warnings


def test_an_operation_that_tensorflow_lacks_is_named(artifact):
    folder = artifact(dtype="int8", required_ops=("_QuantizedMatMul", "_MatMulOfTomorrow"))
    with pytest.raises(BackendFailed, match=r"lacks _MatMulOfTomorrow: update TensorFlow.*--dtype float32"):
        check_machine(folder)


def test_an_artifact_that_asks_for_nothing_passes(artifact):
    check_machine(artifact(required_ops=("SentencepieceTokenizeOp",)))


@pytest.mark.parametrize("manifest", [None, "not JSON"])
def test_a_manifest_that_cannot_be_read_is_the_loaders_concern(tmp_path, manifest):
    if manifest is not None:
        (tmp_path / ASSETS_FOLDER).mkdir()
        (tmp_path / ASSETS_FOLDER / MANIFEST_ASSET).write_text(manifest)
    check_machine(tmp_path)
