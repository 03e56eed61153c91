"""What every backend checks before tensors leave the gateway: names, data types and shapes of a signature's inputs.

TensorFlow itself is lenient where it should not be: a tensor of another rank is accepted in places, and an empty batch
never returns from TF Serving.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_export.contract import SignatureSpec, TensorSpec
from service.backend import Arrays
from service.errors import BackendFailed


def check_inputs(name: str, signature: SignatureSpec, inputs: Arrays) -> None:
    """Compare ``inputs`` with what the signature ``name`` takes.

    Raises:
        BackendFailed: a name, data type or shape differs, or the batch is empty. It is never the client's fault.
    """
    if inputs.keys() != signature.inputs.keys():
        missing = sorted(signature.inputs.keys() - inputs.keys())
        unknown = sorted(inputs.keys() - signature.inputs.keys())
        raise BackendFailed(f"inputs of {name}: missing {missing}, unknown {unknown}")
    sizes: dict[str, int] = {}
    for key, spec in signature.inputs.items():
        problem = _problem(inputs[key], spec, sizes)
        if problem:
            raise BackendFailed(f"input {key} of {name}: {problem}")


def _problem(array: NDArray[np.generic], spec: TensorSpec, sizes: dict[str, int]) -> str | None:
    """What is wrong with one input; ``sizes`` collects the lettered dimensions, equal in all inputs of a call."""
    dtype = np.dtype(object) if spec.dtype == "string" else np.dtype(spec.dtype)
    if array.dtype != dtype:
        return f"{array.dtype} instead of {spec.dtype}"
    if array.ndim != len(spec.shape):
        return f"{array.ndim} dimensions instead of {len(spec.shape)}"
    for letter, size in zip(spec.shape, array.shape, strict=True):
        expected = sizes.setdefault(letter, size) if isinstance(letter, str) else letter
        if size != expected or size == 0:
            return f"shape {array.shape} where {spec.shape} is {sizes}"
    return None
