"""The contract: what an artifact promises, and the manifest that says it."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_export import contract
from model_export.contract import (
    OPTIONS,
    SIGNATURES,
    SUPPORTED_OPTIONS,
    Calibration,
    Certificate,
    ContractError,
    CpuFeatures,
    FinishReason,
    Framing,
    GoldenCase,
    Limits,
    Manifest,
    Profile,
    ProfiledCall,
    SpecialIds,
    TokenizerInfo,
)

CASE = GoldenCase(
    name="beam 4",
    text="말길",
    source_ids=(5, 6, 3),
    options={"beam_size": 4, "length_penalty": 0.6, "do_sample": False},
    prefix_ids=(7,),
    ids=((8, 3), (9, 3)),
    sentences=("a b", "a c"),
    scores=(-0.5, -1.25),
    finish_reasons=(FinishReason.EOS_TOKEN, FinishReason.EOS_TOKEN),
)

MANIFEST = Manifest(
    model_name="en-fr",
    architecture="transformer",
    parameter_count=12,
    special_ids=SpecialIds(pad=0, unk=1, bos=2, eos=3),
    framing=Framing(source_prefix=(), source_suffix=(3,), decoder_start=(2,)),
    limits=Limits(max_source_tokens=64, max_target_tokens=64, max_beam_size=8, default_max_new_tokens=32),
    tokenizer=TokenizerInfo(kind="sentencepiece", sha256=contract.sha256(b""), vocabulary_size=10, byte_fallback=True),
    supported_options=SUPPORTED_OPTIONS,
    dtype="float32",
    required_ops=("MatMul", "SentencepieceTokenizeOp"),
    signatures=SIGNATURES,
    provenance={"data": ["train.tsv"], "steps": 100, "metrics": {"bleu": 44.5}, "note": None},
    profile=Profile(
        "a CPU", 1, "2.21.0", (ProfiledCall(rows=4, source_tokens=8, new_tokens=9, beam_size=1, seconds=0.5),)
    ),
    certificate=Certificate(score_tolerance=1e-3, logit_noise=1e-4, cases=(CASE,)),
)


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    """The sample manifest as JSON after ``change``."""
    raw = json.loads(MANIFEST.to_json())
    change(raw)
    return json.dumps(raw)


# --- signatures: the names, dtypes and shapes of the design page, typed anew -----------------------------------------

OPTION_INPUTS = {
    "beam_size": "int32 [B]",
    "num_hypotheses": "int32 [B]",
    "max_new_tokens": "int32 [B]",
    "min_new_tokens": "int32 [B]",
    "top_k": "int32 [B]",
    "no_repeat_ngram_size": "int32 [B]",
    "length_penalty": "float32 [B]",
    "repetition_penalty": "float32 [B]",
    "temperature": "float32 [B]",
    "top_p": "float32 [B]",
    "do_sample": "bool [B]",
    "disable_unk": "bool [B]",
    "seed": "int64 [B]",
    "prefix_ids": "int32 [B,P]",
    "prefix_lengths": "int32 [B]",
}
HYPOTHESES = {
    "ids": "int32 [B,K,T]",
    "lengths": "int32 [B,K]",
    "finish_reasons": "int32 [B,K]",
    "scores": "float32 [B,K]",
    "normalized_scores": "float32 [B,K]",
    "token_log_probs": "float32 [B,K,T]",
    "source_lengths": "int32 [B]",
}
SCORES = {
    "token_log_probs": "float32 [B,T]",
    "token_ranks": "int32 [B,T]",
    "lengths": "int32 [B]",
    "perplexity": "float32 [B]",
    "source_lengths": "int32 [B]",
}
EXPECTED: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "serving_default": ({"texts": "string [B]"}, {"sentences": "string [B]", "perplexity": "float32 [B]"}),
    "beam_search": (
        {"texts": "string [B]", "beam_size": "int32 []"},
        {"sentences": "string [B,K]", "perplexity": "float32 [B,K]"},
    ),
    "generate": ({"texts": "string [B]", **OPTION_INPUTS}, {"sentences": "string [B,K]", **HYPOTHESES}),
    "generate_ids": ({"source_ids": "int32 [B,S]", "source_lengths": "int32 [B]", **OPTION_INPUTS}, HYPOTHESES),
    "score": ({"texts": "string [B]", "targets": "string [B]"}, SCORES),
    "score_ids": (
        {
            "source_ids": "int32 [B,S]",
            "source_lengths": "int32 [B]",
            "target_ids": "int32 [B,T]",
            "target_lengths": "int32 [B]",
        },
        SCORES,
    ),
    "align": ({"texts": "string [B]", "targets": "string [B]"}, {"attention": "float32 [B,T,S]", **SCORES}),
    "tokenize": (
        {"texts": "string [B]"},
        {"ids": "int32 [B,T]", "lengths": "int32 [B]", "pieces": "string [B,T]"},
    ),
    "detokenize": ({"ids": "int32 [B,T]", "lengths": "int32 [B]"}, {"sentences": "string [B]"}),
    "describe": ({"unused": "string [B]"}, {"manifest": "string [1]", "tokenizer": "string [1]"}),
}


def test_there_are_these_signatures_and_no_others() -> None:
    assert set(SIGNATURES) == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_signature(name: str) -> None:
    def spell(tensors: Any) -> dict[str, str]:
        return {key: f"{spec.dtype} [{','.join(map(str, spec.shape))}]" for key, spec in tensors.items()}

    assert (spell(SIGNATURES[name].inputs), spell(SIGNATURES[name].outputs)) == EXPECTED[name]


def test_neutral_values_have_the_type_of_their_option() -> None:
    kinds = {"int32": int, "int64": int, "float32": float, "bool": bool}

    assert {name: type(option.neutral) for name, option in OPTIONS.items()} == {
        name: kinds[option.dtype] for name, option in OPTIONS.items()
    }


def test_every_option_is_supported() -> None:
    assert set(SUPPORTED_OPTIONS) == {*OPTIONS, "prefix"}


def test_finish_reasons_keep_their_numbers() -> None:
    """They are on the wire: a number never changes its meaning."""
    assert {reason.name: reason.value for reason in FinishReason} == {"NONE": 0, "EOS_TOKEN": 1, "LENGTH": 2}


# --- the manifest -----------------------------------------------------------------------------------------------------


def test_round_trip_gives_an_equal_manifest() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert Manifest.from_json(MANIFEST.to_json().encode()) == MANIFEST


def test_round_trip_of_a_calibrated_dtype() -> None:
    int8 = replace(
        MANIFEST, cpu_features=CpuFeatures(("avx512f",), ("amx_bf16",)), calibration=Calibration("pairs.tsv", "00ff", 7)
    )

    assert Manifest.from_json(int8.to_json()) == int8


def test_round_trip_without_the_optional_parts() -> None:
    bare = replace(MANIFEST, certificate=None, profile=None)

    assert Manifest.from_json(bare.to_json()) == bare


@pytest.mark.parametrize("field", ["cpu_features", "calibration"])
def test_what_older_manifests_lack_is_what_it_was_then(field: str) -> None:
    older = Manifest.from_json(changed(lambda raw: raw.pop(field)))

    assert older == replace(MANIFEST, cpu_features=CpuFeatures((), ()), calibration=None)


def test_json_is_readable_and_stable() -> None:
    text = MANIFEST.to_json()

    assert "말길" in text
    assert text == Manifest.from_json(text).to_json()
    assert text.endswith("}\n")


def test_whole_numbers_are_floats_where_floats_belong() -> None:
    manifest = Manifest.from_json(changed(lambda raw: raw["certificate"].update(score_tolerance=1)))

    assert manifest.certificate is not None
    assert type(manifest.certificate.score_tolerance) is float


def test_option_values_keep_their_type() -> None:
    manifest = Manifest.from_json(MANIFEST.to_json())

    assert manifest.certificate is not None
    values = manifest.certificate.cases[0].options
    assert {name: type(value) for name, value in values.items()} == {
        "beam_size": int,
        "length_penalty": float,
        "do_sample": bool,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("dtype"), "manifest.dtype: missing"),
        (lambda raw: raw["limits"].pop("max_beam_size"), "manifest.limits.max_beam_size: missing"),
        (lambda raw: raw.update(colour="red"), "manifest.colour: unknown field"),
        (lambda raw: raw["special_ids"].update(mask=4), "manifest.special_ids.mask: unknown field"),
        (lambda raw: raw.update(parameter_count="12"), "manifest.parameter_count: int is expected, not '12'"),
        (lambda raw: raw.update(parameter_count=True), "manifest.parameter_count: int is expected, not True"),
        (lambda raw: raw.update(parameter_count=None), "manifest.parameter_count: int is expected, not None"),
        (lambda raw: raw.update(limits=[]), "manifest.limits: an object is expected, not []"),
        (lambda raw: raw.update(supported_options="beam"), "manifest.supported_options: a list is expected"),
        (lambda raw: raw["required_ops"].append(1), "manifest.required_ops[2]: str is expected, not 1"),
        (lambda raw: raw.update(signatures=3), "manifest.signatures: an object is expected, not 3"),
        (
            lambda raw: raw["signatures"]["describe"]["inputs"]["unused"].update(shape=[1.5]),
            "manifest.signatures.describe.inputs.unused.shape[0]: str or int is expected, not 1.5",
        ),
        (
            lambda raw: raw["certificate"]["cases"][0]["options"].update(beam_size="four"),
            "manifest.certificate.cases[0].options.beam_size: bool or int or float is expected, not 'four'",
        ),
        (
            lambda raw: raw["profile"]["calls"][0].update(rows=2.5),
            "manifest.profile.calls[0].rows: int is expected, not 2.5",
        ),
        (lambda raw: raw.update(profile={"tokens_per_second": 1.5}), "manifest.profile.tokens_per_second: unknown"),
        (
            lambda raw: raw["certificate"]["cases"][0]["ids"][0].append(None),
            "manifest.certificate.cases[0].ids[0][2]: int is expected, not None",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_place(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(ContractError) as caught:
        Manifest.from_json(changed(change))

    assert message in str(caught.value)


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_another_format_version_is_refused_before_anything_else(version: object) -> None:
    with pytest.raises(ContractError, match=r"format version .*, this Malgil reads 1: export the model anew"):
        Manifest.from_json(json.dumps({"format_version": version}))


@pytest.mark.parametrize("text", ["", "{", b"\xff\xfe{}", "{'a': 1}"])
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ContractError, match="the manifest is not JSON"):
        Manifest.from_json(text)


@pytest.mark.parametrize("text", ["[]", "null", '"manifest"'])
def test_json_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match="not a JSON object"):
        Manifest.from_json(text)


def test_the_cpu_has_the_same_name_each_time() -> None:
    assert contract.cpu_name() == contract.cpu_name() != ""


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Linux says of the processor, to be written."""
    monkeypatch.setattr(contract, "_CPUINFO", str(tmp_path / "cpuinfo"))
    monkeypatch.setattr(contract.platform, "machine", lambda: "x86_64")
    return tmp_path / "cpuinfo"


def test_the_flags_of_the_cpu_are_those_of_its_first_core(cpuinfo: Path) -> None:
    cpuinfo.write_text("model name : A\nvmx flags : ept\nflags\t\t: fpu avx2\n\nmodel name : B\nflags : fpu\n")

    assert contract.cpu_flags() == {"fpu", "avx2"}
    assert contract.cpu_name() == "A"


def test_a_cpu_that_tells_nothing_is_given_the_benefit_of_the_doubt(cpuinfo: Path) -> None:
    assert not cpuinfo.exists()
    assert contract.cpu_flags() is None
    assert contract.unsupported_here("int8", CpuFeatures(("avx512f",))) is None


def test_a_cpu_of_another_kind_has_no_feature(cpuinfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo.write_text("processor : 0\nFeatures : fp asimd bf16\n")
    monkeypatch.setattr(contract.platform, "machine", lambda: "aarch64")

    assert contract.cpu_flags() == frozenset()
    assert contract.unsupported_here("float32", CpuFeatures()) is None
    reason = contract.unsupported_here("bfloat16", CpuFeatures(("avx512f", "avx512bw")))
    assert reason is not None
    assert "aarch64) lacks avx512f, avx512bw; what `malgil-export export --dtype float32` writes runs here" in reason


def test_sha256_of_nothing() -> None:
    assert contract.sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_contract_imports_the_standard_library_alone() -> None:
    tree = ast.parse(Path(contract.__file__).read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }

    assert imported
    assert imported <= sys.stdlib_module_names
