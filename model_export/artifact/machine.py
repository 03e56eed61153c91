"""Whether this machine can run an artifact, found out before any work."""

from __future__ import annotations

from model_export.config import UserError
from model_export.contract import CpuFeatures, unsupported_here


class MachineError(UserError):
    """This machine has no kernel for an artifact, which therefore can neither be written nor run here."""


def check_machine(dtype: str, features: CpuFeatures) -> None:
    """
    Raises:
        MachineError: the processor lacks a feature that ``dtype`` needs.
    """
    reason = unsupported_here(dtype, features)
    if reason is not None:
        raise MachineError(reason)
