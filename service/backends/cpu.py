"""Whether this machine can run an artifact, found out before TensorFlow tries.

oneDNN has no kernel for bfloat16 or int8 on every processor, and where it has none it ends the process.
"""

from __future__ import annotations

import logging
from pathlib import Path

from model_export.contract import (
    ASSETS_FOLDER,
    MANIFEST_ASSET,
    ContractError,
    Manifest,
    cpu_flags,
    cpu_name,
    unsupported_here,
)
from service.backends.saved_model import unknown_ops
from service.errors import BackendFailed
from service.telemetry import log_event


def check_machine(folder: Path) -> None:
    """Refuse the artifact in ``folder`` if its manifest asks for what is not here.

    An artifact whose manifest cannot be read passes: whoever loads it finds that out.

    Raises:
        BackendFailed: the processor lacks a feature, or TensorFlow an operation.
        BackendUnavailable: TensorFlow is not installed.
    """
    try:
        manifest = Manifest.from_json((folder / ASSETS_FOLDER / MANIFEST_ASSET).read_bytes())
    except (OSError, ContractError):
        return
    reason = unsupported_here(manifest.dtype, manifest.cpu_features) or _lacking_ops(manifest)
    if reason is not None:
        raise BackendFailed(reason)
    flags, fast = cpu_flags(), manifest.cpu_features.fast
    if flags is not None and fast and not flags.intersection(fast):
        log_event(
            "model runs here, but its float32 export would be faster",
            logging.WARNING,
            model_name=manifest.model_name,
            reason=f"this processor ({cpu_name()}) has none of {', '.join(fast)}, which {manifest.dtype} wants",
        )


def _lacking_ops(manifest: Manifest) -> str | None:
    missing = unknown_ops(manifest.required_ops)
    if not missing:
        return None
    remedy = "update TensorFlow and TF Text"
    if manifest.dtype != "float32":
        remedy += ", or use what `malgil-export export --dtype float32` writes"
    return f"the TensorFlow of this machine lacks {', '.join(missing)}: {remedy}"
