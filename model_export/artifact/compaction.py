"""A saved graph made smaller, computing what it did: less to read, to optimize and to instantiate at every load.

Nearly half of what tracing leaves are constants, a few for each slice, most of them equal. TensorFlow merges them when
a signature is first called, again for each signature and each load, and handles them all until then
(docs/decisions/0022).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

_SHAPES: Final = "_output_shapes"
"""Attribute that tells what TensorFlow infers anew whenever it reads a graph."""
_WRITING: Final = frozenset({"InplaceAdd", "InplaceSub", "InplaceUpdate"})
"""Operations that TensorFlow takes for pure although they change their input."""


def compact(artifact: Path) -> None:
    """Rewrite the graph of a SavedModel; what its functions take and give, and their names, stay as they are."""
    file = artifact / "saved_model.pb"
    saved = SavedModel.FromString(file.read_bytes())
    for graph in saved.meta_graphs:
        merge_equal_nodes(graph)
    file.write_bytes(saved.SerializeToString(deterministic=True))
    (artifact / "fingerprint.pb").unlink(missing_ok=True)  # of the larger graph; TensorFlow does without


def merge_equal_nodes(graph: MetaGraphDef) -> None:
    """In every function: of nodes that compute the same one is left, and none that nothing uses."""
    functions = graph.graph_def.library.function
    definitions = [*graph.meta_info_def.stripped_op_list.op, *(function.signature for function in functions)]
    pure = {definition.name for definition in definitions if not definition.is_stateful} - _WRITING
    for function in functions:
        _merge(function, pure)
        _drop_unused(function, pure)


def _merge(function: FunctionDef, pure: Collection[str]) -> None:
    replaced: dict[str, str] = {}
    first: dict[bytes, str] = {}
    for node in list(_inputs_first(function)):
        inputs = [_renamed(name, replaced) for name in node.input]
        del node.input[:]
        node.input.extend([*_data(inputs), *_control(inputs)])
        node.attr.pop(_SHAPES, None)
        if node.op in pure:
            kept = first.setdefault(_meaning(node), node.name)
            if kept != node.name:
                replaced[node.name] = kept
    _keep(function, [node for node in function.node_def if node.name not in replaced])
    for returned in (function.ret, function.control_ret):
        for name, source in list(returned.items()):
            returned[name] = _renamed(source, replaced)


def _drop_unused(function: FunctionDef, pure: Collection[str]) -> None:
    nodes = {node.name: node for node in function.node_def}
    open_ends = [*map(_producer, function.ret.values()), *function.control_ret.values()]
    open_ends += [node.name for node in function.node_def if node.op not in pure]
    used: set[str] = set()
    while open_ends:
        name = open_ends.pop()
        if name in nodes and name not in used:
            used.add(name)
            open_ends += map(_producer, nodes[name].input)
    _keep(function, [node for node in function.node_def if node.name in used])


def _inputs_first(function: FunctionDef) -> Iterator[NodeDef]:
    """Every node after those that it reads. Functions have no cycles: their loops are functional."""
    nodes: Mapping[str, NodeDef] = {node.name: node for node in function.node_def}
    seen: set[str] = set()
    for start in nodes:
        stack = [(start, False)]
        while stack:
            name, is_ready = stack.pop()
            if is_ready:
                yield nodes[name]
            elif name not in seen:
                seen.add(name)
                before = {_producer(source) for source in nodes[name].input}
                stack.append((name, True))
                stack += [(source, False) for source in before if source in nodes]


def _meaning(node: NodeDef) -> bytes:
    """Equal for nodes that compute the same."""
    anonymous = NodeDef(op=node.op, input=node.input, device=node.device)
    for name, value in node.attr.items():
        anonymous.attr[name].CopyFrom(value)
    return anonymous.SerializeToString(deterministic=True)


def _keep(function: FunctionDef, nodes: list[NodeDef]) -> None:
    copies = [NodeDef.FromString(node.SerializeToString()) for node in nodes]
    del function.node_def[:]
    function.node_def.extend(copies)


def _data(inputs: list[str]) -> list[str]:
    return [name for name in inputs if not name.startswith("^")]


def _control(inputs: list[str]) -> list[str]:
    """Sorted, so that their order makes no difference."""
    return sorted({name for name in inputs if name.startswith("^")})


def _producer(source: str) -> str:
    """The node (or argument) that an input such as ``node:output:0`` or ``^node`` names."""
    return source.removeprefix("^").partition(":")[0]


def _renamed(source: str, replaced: Mapping[str, str]) -> str:
    producer = _producer(source)
    return source.replace(producer, replaced[producer], 1) if producer in replaced else source
