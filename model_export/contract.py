"""What an exported artifact promises: signature names, tensor specs, the manifest.

Both sides of the wire read this file: ``model_export`` to write artifacts, ``service`` to call them. It
therefore uses the standard library alone, and importing it never loads TensorFlow.

Notation in shapes: ``B`` rows, ``S`` source tokens, ``P`` prefix tokens, ``K`` hypotheses, ``T`` new target tokens.
An artifact is the folder ``<root>/<model name>/<version>/``, which is what TF Serving calls a version of a servable.
"""

from __future__ import annotations

import enum
import hashlib
import json
import platform
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

FORMAT_VERSION: Final = 1
MANIFEST_ASSET: Final = "manifest.json"
TOKENIZER_ASSET: Final = "tokenizer.model"
ASSETS_FOLDER: Final = "assets"
WARMUP_RECORDS: Final = "assets.extra/tf_serving_warmup_requests"
MINIMUM_GOLDEN_CASES: Final = 16
"""A certificate with fewer proves too little."""
Dtype = Literal["float32", "bfloat16", "int8"]
DTYPES: Final[tuple[Dtype, ...]] = ("float32", "bfloat16", "int8")
"""What the linear layers of an artifact may be stored and computed in."""
_CPUINFO = "/proc/cpuinfo"


class ContractError(ValueError):
    """A manifest that this version of Malgil cannot read; the message names the field."""


class FinishReason(enum.IntEnum):
    """Values of the ``finish_reasons`` output."""

    NONE = 0  # no hypothesis at this place: the row asked for fewer than K
    EOS_TOKEN = 1
    LENGTH = 2


# --- tensors and signatures -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Data type (NumPy's name, or ``string``) and shape; a letter in ``shape`` is a dimension known at run time."""

    dtype: str
    shape: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class SignatureSpec:
    """Named inputs and outputs of one signature."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """One per-row decoding option, a tensor ``[B]``; ``neutral`` is the value that changes nothing."""

    dtype: str
    neutral: bool | int | float


OPTIONS: Final[Mapping[str, OptionSpec]] = {
    "beam_size": OptionSpec("int32", 1),  # equal within one call, unless ``Manifest.mixed_beam_sizes``
    "num_hypotheses": OptionSpec("int32", 1),
    "max_new_tokens": OptionSpec("int32", 0),  # 0: the manifest's default_max_new_tokens
    "min_new_tokens": OptionSpec("int32", 0),
    "top_k": OptionSpec("int32", 0),
    "no_repeat_ngram_size": OptionSpec("int32", 0),
    "length_penalty": OptionSpec("float32", 1.0),
    "repetition_penalty": OptionSpec("float32", 1.0),
    "temperature": OptionSpec("float32", 1.0),
    "top_p": OptionSpec("float32", 1.0),
    "do_sample": OptionSpec("bool", False),
    "disable_unk": OptionSpec("bool", False),
    "seed": OptionSpec("int64", 0),
}
"""Options of ``generate`` and ``generate_ids``. ``prefix_ids`` and ``prefix_lengths`` come beside them."""

_TEXTS = TensorSpec("string", ("B",))
_ROW_INT = TensorSpec("int32", ("B",))
_OPTION_INPUTS: Mapping[str, TensorSpec] = {
    **{name: TensorSpec(option.dtype, ("B",)) for name, option in OPTIONS.items()},
    "prefix_ids": TensorSpec("int32", ("B", "P")),
    "prefix_lengths": _ROW_INT,
}
_SOURCE_IDS: Mapping[str, TensorSpec] = {"source_ids": TensorSpec("int32", ("B", "S")), "source_lengths": _ROW_INT}
_HYPOTHESES: Mapping[str, TensorSpec] = {
    "ids": TensorSpec("int32", ("B", "K", "T")),
    "lengths": TensorSpec("int32", ("B", "K")),
    "finish_reasons": TensorSpec("int32", ("B", "K")),
    "scores": TensorSpec("float32", ("B", "K")),
    "normalized_scores": TensorSpec("float32", ("B", "K")),
    "token_log_probs": TensorSpec("float32", ("B", "K", "T")),
    "source_lengths": _ROW_INT,
}
_SCORES: Mapping[str, TensorSpec] = {
    "token_log_probs": TensorSpec("float32", ("B", "T")),
    "token_ranks": TensorSpec("int32", ("B", "T")),  # how many tokens are likelier than this one; 0: none
    "lengths": _ROW_INT,
    "perplexity": TensorSpec("float32", ("B",)),
    "source_lengths": _ROW_INT,
}

SIGNATURES: Final[Mapping[str, SignatureSpec]] = {
    "serving_default": SignatureSpec(
        inputs={"texts": _TEXTS},
        outputs={"sentences": TensorSpec("string", ("B",)), "perplexity": TensorSpec("float32", ("B",))},
    ),
    "beam_search": SignatureSpec(
        inputs={"texts": _TEXTS, "beam_size": TensorSpec("int32", ())},
        outputs={"sentences": TensorSpec("string", ("B", "K")), "perplexity": TensorSpec("float32", ("B", "K"))},
    ),
    "generate": SignatureSpec(
        inputs={"texts": _TEXTS, **_OPTION_INPUTS},
        outputs={"sentences": TensorSpec("string", ("B", "K")), **_HYPOTHESES},
    ),
    "generate_ids": SignatureSpec(inputs={**_SOURCE_IDS, **_OPTION_INPUTS}, outputs=_HYPOTHESES),
    "score": SignatureSpec(inputs={"texts": _TEXTS, "targets": _TEXTS}, outputs=_SCORES),
    "score_ids": SignatureSpec(
        inputs={**_SOURCE_IDS, "target_ids": TensorSpec("int32", ("B", "T")), "target_lengths": _ROW_INT},
        outputs=_SCORES,
    ),
    "align": SignatureSpec(
        inputs={"texts": _TEXTS, "targets": _TEXTS},
        outputs={"attention": TensorSpec("float32", ("B", "T", "S")), **_SCORES},
    ),
    "tokenize": SignatureSpec(
        inputs={"texts": _TEXTS},
        outputs={
            "ids": TensorSpec("int32", ("B", "T")),
            "lengths": _ROW_INT,
            "pieces": TensorSpec("string", ("B", "T")),
        },
    ),
    "detokenize": SignatureSpec(
        inputs={"ids": TensorSpec("int32", ("B", "T")), "lengths": _ROW_INT}, outputs={"sentences": _TEXTS}
    ),
    "describe": SignatureSpec(
        inputs={"unused": _TEXTS},
        outputs={"manifest": TensorSpec("string", (1,)), "tokenizer": TensorSpec("string", (1,))},
    ),
}
"""Every signature an artifact may have, with its exact names, dtypes and shapes.

It has all, but ``align`` only where the model has attention; or those of ``IDS_ONLY``.

``ids``, ``lengths``, ``scores`` and ``token_log_probs`` speak of the *new* tokens (EOS included, a forced prefix not);
``sentences`` begin with the prefix, because only whole token sequences detokenize correctly. ``score`` and ``align``
end a target with EOS; ``score_ids`` scores exactly the tokens that it is given. Their outputs are 0 past a length.
"""

IDS_ONLY: Final = ("generate_ids", "score_ids", "describe")
"""Signatures of an artifact without a tokenizer in its graph, for servers that lack TF Text: its callers tokenize."""

SUPPORTED_OPTIONS: Final = (*OPTIONS, "prefix")
"""Options that today's graphs act on: all of them. An artifact's manifest names those that its own graph knows."""


# --- the manifest -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Token ids with a meaning of their own."""

    pad: int
    unk: int
    bos: int
    eos: int


@dataclass(frozen=True, slots=True)
class Framing:
    """What surrounds the tokens of a text: the encoder reads ``source_prefix + ids + source_suffix``."""

    source_prefix: tuple[int, ...]
    source_suffix: tuple[int, ...]
    decoder_start: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one row. Source tokens count the framing; target tokens count a forced prefix and EOS."""

    max_source_tokens: int
    max_target_tokens: int
    max_beam_size: int
    default_max_new_tokens: int


@dataclass(frozen=True, slots=True)
class TokenizerInfo:
    """The tokenizer asset: ``sha256`` is of its bytes."""

    kind: str
    sha256: str
    vocabulary_size: int
    byte_fallback: bool


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One input of the parity certificate with the live model's answer (``[K]`` hypotheses, best first)."""

    name: str
    text: str
    source_ids: tuple[int, ...]
    options: Mapping[str, bool | int | float]  # those that differ from neutral
    prefix_ids: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]
    sentences: tuple[str, ...]
    scores: tuple[float, ...]
    finish_reasons: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """The parity certificate: every replay must give the same ids and sentences, and scores within ``score_tolerance``.

    ``logit_noise`` is the perturbation of the logits under which every case was seen to keep its answer.
    """

    score_tolerance: float
    logit_noise: float
    cases: tuple[GoldenCase, ...]


@dataclass(frozen=True, slots=True)
class ProfiledCall:
    """One shape of a ``generate_ids`` call, and the median seconds that it took.

    All rows are alike: so many source tokens (framing included) and, by force, so many new ones.
    """

    rows: int
    source_tokens: int
    new_tokens: int
    beam_size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Profile:
    """What calls took on some machine, one at a time, with so many threads within an operation."""

    cpu: str  # as ``cpu_name`` has it
    intra_op_threads: int
    tensorflow_version: str
    calls: tuple[ProfiledCall, ...]


@dataclass(frozen=True, slots=True)
class CpuFeatures:
    """What the graph's kernels ask of the processor, as the ``flags`` of Linux's ``/proc/cpuinfo`` name it."""

    required: tuple[str, ...] = ()  # all of them: without one there is no kernel, and TensorFlow ends the process
    fast: tuple[str, ...] = ()  # any of them: without, the artifact is no faster than its float32 one


@dataclass(frozen=True, slots=True)
class Calibration:
    """The text pairs by which static int8 scales were measured."""

    file: str  # its name alone
    sha256: str  # of its bytes
    pairs: int  # that were read: a bounded number, spread over the file


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a server must know of an artifact; stored as ``assets/manifest.json`` and told by ``describe``."""

    model_name: str
    architecture: str
    parameter_count: int
    special_ids: SpecialIds
    framing: Framing
    limits: Limits
    tokenizer: TokenizerInfo
    supported_options: tuple[str, ...]
    dtype: str
    required_ops: tuple[str, ...]
    signatures: Mapping[str, SignatureSpec]
    mixed_beam_sizes: bool = False  # whether rows of one call may differ in ``beam_size``
    cpu_features: CpuFeatures = CpuFeatures()
    calibration: Calibration | None = None  # None: no static scales
    provenance: Mapping[str, Any] = field(default_factory=dict)  # data, steps, metrics: as the trainer reported them
    profile: Profile | None = None
    certificate: Certificate | None = None
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """The manifest as indented UTF-8 JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Parse and check every field.

        Raises:
            ContractError: not JSON, another format version, or a field that is missing, unknown or of a wrong type.
        """
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise ContractError(f"the manifest is not JSON: {error}") from error
        if not isinstance(raw, dict):
            raise ContractError("the manifest is not a JSON object")
        version = raw.get("format_version")
        if version != FORMAT_VERSION:
            raise ContractError(
                f"the manifest has format version {version!r}, this Malgil reads {FORMAT_VERSION}: "
                "export the model anew"
            )
        manifest: Manifest = _parse(cls, raw, "manifest")
        return manifest


def cpu_name() -> str:
    """What this machine calls its processor, such as ``AMD EPYC 9654``: measured times hold for one of this name."""
    return _of_cpu("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str] | None:
    """Features of this machine's processor as Linux names them; None where nobody tells, none for other than x86-64."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return frozenset()
    flags = _of_cpu("flags")
    return frozenset(flags.split()) if flags else None


def unsupported_here(dtype: str, features: CpuFeatures) -> str | None:
    """Why this machine cannot run an artifact of this dtype; None if it can, or if it does not tell."""
    flags = cpu_flags()
    missing = [] if flags is None else [name for name in features.required if name not in flags]
    if not missing:
        return None
    machine = " ".join(dict.fromkeys((cpu_name(), platform.machine())))
    return (
        f"this machine has no kernel for {dtype}: its processor ({machine}) lacks {', '.join(missing)}; "
        "what `malgil-export export --dtype float32` writes runs here"
    )


def _of_cpu(key: str) -> str:
    """What Linux says of the first processor that it says it of; empty where it is silent."""
    try:
        with open(_CPUINFO, encoding="utf-8", errors="replace") as lines:
            told = [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key]
    except OSError:
        return ""
    return next(filter(None, told), "")


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def _parse(kind: Any, value: Any, where: str) -> Any:
    """``value`` (decoded JSON) as ``kind``: a dataclass, mapping, tuple, union or plain type."""
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _parse_dataclass(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _parse_union(arguments, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ContractError(f"{where}: a list is expected, not {value!r}")
        return tuple(_parse(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ContractError(f"{where}: an object is expected, not {value!r}")
        return {key: _parse(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ContractError(f"{where}: {kind.__name__} is expected, not {value!r}")
    return value


def _parse_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ContractError(f"{where}: an object is expected, not {value!r}")
    hints = get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}
    for name in value:
        if name not in known:
            raise ContractError(f"{where}.{name}: unknown field")
    for name, item in known.items():
        if name not in value and item.default is MISSING and item.default_factory is MISSING:
            raise ContractError(f"{where}.{name}: missing")
    return kind(**{name: _parse(hints[name], value[name], f"{where}.{name}") for name in known if name in value})


def _parse_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    for option in rest:
        if type(value) is option:  # exact, so that true stays a bool and 1 an int
            return value
    if len(rest) > 1:
        raise ContractError(f"{where}: {' or '.join(option.__name__ for option in rest)} is expected, not {value!r}")
    return _parse(rest[0], value, where)
