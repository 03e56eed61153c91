"""A saved artifact, read again: its graph as stored, and its signatures in the two runtimes that serve it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the operations of the tokenizer
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from model_export.artifact.calls import Arrays, Signature, on_arrays

SERVE_TAG = "serve"
_NEEDLESS: Final = (
    "arithmetic_optimization",
    "constant_folding",
    "implementation_selector",
    "layout_optimizer",
    "loop_optimization",
    "shape_optimization",
)
_INIT_SIGNATURE = "__saved_model_init_op"  # TensorFlow's own, in every SavedModel


def read_meta_graph(artifact: Path) -> meta_graph_pb2.MetaGraphDef:
    """The one graph of the artifact.

    Raises:
        OSError: no such file. ValueError: it is no SavedModel of a single graph.
    """
    data = (artifact / "saved_model.pb").read_bytes()
    try:
        saved = saved_model_pb2.SavedModel.FromString(data)
    except Exception as error:  # protobuf's own DecodeError differs between its implementations
        raise ValueError(f"saved_model.pb is damaged: {error}") from error
    if len(saved.meta_graphs) != 1:
        raise ValueError(f"saved_model.pb holds {len(saved.meta_graphs)} graphs, not one")
    return saved.meta_graphs[0]


def signature_defs(graph: meta_graph_pb2.MetaGraphDef) -> dict[str, meta_graph_pb2.SignatureDef]:
    """The signatures that clients may call."""
    return {name: spec for name, spec in graph.signature_def.items() if name != _INIT_SIGNATURE}


def required_ops(graph: meta_graph_pb2.MetaGraphDef) -> tuple[str, ...]:
    """Operations beyond TensorFlow's public ones: those of TF Text, and kernels without a Python name."""
    library = graph.graph_def.library.function
    used = {node.op for node in graph.graph_def.node} | {node.op for body in library for node in body.node_def}
    functions = {body.signature.name for body in library}
    return tuple(sorted(name for name in used - functions if not hasattr(tf.raw_ops, name)))


@contextmanager
def quick_first_calls() -> Iterator[None]:
    """While entered, functions are optimized no more than ``optimize_lightly`` does when they are first called."""
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options(dict.fromkeys((*_NEEDLESS, "remapping"), False))
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options(
            {name: before.get(name, True) for name in (*_NEEDLESS, "remapping")}
        )


def optimize_lightly(config: tf.compat.v1.ConfigProto) -> None:
    """Leave out what takes most of the time of a session's first calls and makes no later one faster.

    Measured in docs/decisions/0022. ``service/backends/saved_model.py`` does the same.
    """
    options = config.graph_options.rewrite_options
    for name in (*_NEEDLESS, "common_subgraph_elimination"):
        setattr(options, name, options.OFF)
    options.memory_optimization = options.NO_MEM_OPT
    options.meta_optimizer_iterations = options.ONE
    options.disable_tfg_optimizer = True


@contextmanager
def loaded(artifact: Path) -> Iterator[Mapping[str, Signature]]:
    """Signatures by ``tf.saved_model.load``."""
    module = tf.saved_model.load(str(artifact))
    yield {name: on_arrays(function) for name, function in module.signatures.items()}


@contextmanager
def in_session(artifact: Path, threads: int = 0) -> Iterator[Mapping[str, Signature]]:
    """Signatures in a TF1 session, which is what TF Serving makes of an artifact; ``threads`` 0: TensorFlow's choice.

    TensorFlow has its threads for the whole process: what its first session asks for holds for the others.
    """
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
    optimize_lightly(config)
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    try:
        with session.graph.as_default():  # no longer than this: whoever uses the signatures may work eagerly
            meta_graph = tf.compat.v1.saved_model.load(session, [SERVE_TAG], str(artifact))
        yield {name: _session_signature(session, spec) for name, spec in signature_defs(meta_graph).items()}
    finally:
        session.close()


def _session_signature(session: tf.compat.v1.Session, spec: meta_graph_pb2.SignatureDef) -> Signature:
    fetches = {name: info.name for name, info in spec.outputs.items()}

    def signature(inputs: Arrays) -> Arrays:
        feeds: dict[str, Any] = {spec.inputs[name].name: value for name, value in inputs.items()}
        return session.run(fetches, feeds)

    return signature
