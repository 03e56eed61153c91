"""Signatures as concrete functions: what the contract specifies, around a body that computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import tensorflow as tf

from model_export.artifact.input_checks import check_rows
from model_export.contract import SignatureSpec, TensorSpec

Tensors = dict[str, tf.Tensor]


class Functions(Mapping[str, Callable[..., Tensors]]):
    """By name, each traced when it is first asked for.

    TensorFlow does not track this class: signatures are saved as such.
    """

    def __init__(self, bodies: Mapping[str, tuple[SignatureSpec, Callable[..., Tensors]]]) -> None:
        self._bodies = bodies
        self._traced: dict[str, Callable[..., Tensors]] = {}

    def __getitem__(self, name: str) -> Callable[..., Tensors]:
        if name not in self._traced:
            self._traced[name] = _trace(name, *self._bodies[name])
        return self._traced[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._bodies)

    def __len__(self) -> int:
        return len(self._bodies)


def _tensor_specs(specs: Mapping[str, TensorSpec]) -> dict[str, tf.TensorSpec]:
    """The contract's specs as TensorFlow's; letters become dimensions of any size."""
    return {name: tf.TensorSpec(_shape(spec), tf.dtypes.as_dtype(spec.dtype), name) for name, spec in specs.items()}


def _shape(spec: TensorSpec) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in spec.shape]


def _trace(name: str, spec: SignatureSpec, body: Callable[..., Tensors]) -> Callable[..., Tensors]:
    """``body`` with the inputs of ``spec``, their rows checked, and exactly its outputs."""

    def signature(**inputs: tf.Tensor) -> Tensors:
        in_order = {key: inputs[key] for key in spec.inputs}  # messages name the first as the one to follow
        outputs = body(**check_rows(in_order))
        return {key: tf.ensure_shape(outputs[key], _shape(output)) for key, output in spec.outputs.items()}

    signature.__name__ = name  # what graphs and profiles show
    # Nothing here or in the searches needs autograph, and without its rewriting tracing takes a third of the time.
    return tf.function(signature, autograph=False).get_concrete_function(**_tensor_specs(spec.inputs))
