"""Which dtypes this machine can run: where oneDNN has no kernel, it ends the process."""

from __future__ import annotations

import pytest

from model_export.contract import Dtype, unsupported_here
from model_export.export import CPU_FEATURES


def needs_kernels_of(*dtypes: Dtype) -> pytest.MarkDecorator:
    """Skip the test where one of the dtypes has no kernel."""
    reasons = [reason for each in dtypes if (reason := unsupported_here(each, CPU_FEATURES[each]))]
    return pytest.mark.skipif(bool(reasons), reason="; ".join(reasons))
