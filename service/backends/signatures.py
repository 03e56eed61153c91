"""What every backend checks of tensors on their way out of the gateway and back: names, data types and shapes.

TensorFlow itself is lenient where it should not be: a tensor of another rank is accepted in places, and an empty batch
never returns from TF Serving.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_export.contract import SignatureSpec, TensorSpec
from service.backend import Arrays
from service.errors import BackendFailed


def check_inputs(name: str, signature: SignatureSpec, inputs: Arrays) -> int:
    """Compare ``inputs`` with what the signature ``name`` takes.

    Returns:
        Their rows, B.

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
        if problem is None and not inputs[key].size:
            problem = f"shape {inputs[key].shape} is empty"
        if problem:
            raise BackendFailed(f"input {key} of {name}: {problem}")
    return sizes["B"]


def check_outputs(name: str, signature: SignatureSpec, outputs: Arrays, rows: int) -> None:
    """Compare the ``outputs`` of the signature ``name`` for ``rows`` rows with what it promises.

    Raises:
        BackendFailed: one is missing, or its data type or shape differs.
    """
    sizes = {"B": rows}
    for key, spec in signature.outputs.items():
        problem = _problem(outputs[key], spec, sizes) if key in outputs else "it is missing"
        if problem:
            raise BackendFailed(f"output {key} of {name}: {problem}")


@functools.cache
def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(object if name == "string" else name)


def _problem(array: NDArray[np.generic], spec: TensorSpec, sizes: dict[str, int]) -> str | None:
    """What is wrong with one tensor; ``sizes`` collects the lettered dimensions, equal in all tensors of a call."""
    if array.dtype != _dtype(spec.dtype):
        return f"{array.dtype} instead of {spec.dtype}"
    if array.ndim != len(spec.shape):
        return f"{array.ndim} dimensions instead of {len(spec.shape)}"
    for letter, size in zip(spec.shape, array.shape, strict=True):
        if size != (sizes.setdefault(letter, size) if isinstance(letter, str) else letter):
            return f"shape {array.shape} where {spec.shape} is {sizes}"
    return None
