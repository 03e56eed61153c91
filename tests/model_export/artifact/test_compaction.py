"""Compaction: equal nodes become one, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.function_pb2 import FunctionDef

from model_export.artifact.compaction import compact
from model_export.artifact.reloaded import in_session, read_meta_graph

SIZES = 40


class Module(tf.Module):
    """Work that occurs twice, with effects that must not, in a function and in the body of a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = tf.Variable(0)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32)], autograph=False)
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        self.calls.assign_add(1)
        self.calls.assign_add(1)
        tf.exp(x)  # which nothing uses

        def body(time: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return time + 1, total + x[:, 0] * tf.cast(tf.shape(x)[0], tf.float32) + x[:, 0]

        _, total = tf.while_loop(lambda time, _: time < 3, body, (tf.constant(0), tf.zeros_like(x[:, 0])))
        numbered = {f"out_{index:02}": x[:, 0] + float(index // 2) for index in range(SIZES)}  # each sum twice
        return {"total": total, "calls": self.calls.read_value(), **numbered}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "1"
    module = Module()
    tf.saved_model.save(module, str(folder), signatures={"add": module.__call__.get_concrete_function()})
    return folder


@pytest.fixture(scope="module")
def compacted(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compacted") / "1"
    tf.io.gfile.makedirs(str(folder))
    for source in saved.rglob("*"):
        target = folder / source.relative_to(saved)
        target.mkdir(exist_ok=True) if source.is_dir() else target.write_bytes(source.read_bytes())
    compact(folder)
    return folder


def functions(artifact: Path) -> dict[str, FunctionDef]:
    return {function.signature.name: function for function in read_meta_graph(artifact).graph_def.library.function}


def main(artifact: Path) -> FunctionDef:
    """What ``Module.__call__`` became; smaller functions wrap it, or are the body of its loop."""
    return max(functions(artifact).values(), key=lambda function: len(function.node_def))


def operations(function: FunctionDef) -> Counter[str]:
    return Counter(node.op for node in function.node_def)


def test_of_equal_nodes_one_is_left(saved: Path, compacted: Path) -> None:
    before, after = functions(saved), functions(compacted)
    assert before.keys() == after.keys()
    assert operations(main(saved))["AddV2"] == SIZES
    assert operations(main(compacted))["AddV2"] == SIZES // 2
    bodies = [name for name in before if "while_body" in name]
    assert bodies
    for name in bodies:
        assert 0 < operations(after[name])["StridedSlice"] < operations(before[name])["StridedSlice"]


def test_no_node_is_left_that_nothing_uses_and_every_effect_is(saved: Path, compacted: Path) -> None:
    before, after = main(saved), main(compacted)
    assert (operations(before)["Exp"], operations(after)["Exp"]) == (1, 0)
    assert operations(after)["AssignAddVariableOp"] == operations(before)["AssignAddVariableOp"] == 2


def test_what_is_left_reads_nothing_that_is_gone(compacted: Path) -> None:
    for function in functions(compacted).values():
        there = {node.name for node in function.node_def} | {argument.name for argument in function.signature.input_arg}
        read = [name for node in function.node_def for name in node.input]
        read += [*function.ret.values(), *function.control_ret.values()]
        assert {name.removeprefix("^").partition(":")[0] for name in read} <= there


def test_both_runtimes_answer_as_before(saved: Path, compacted: Path) -> None:
    x = np.array([[1.0, 5.0], [2.0, 7.0]], np.float32)
    expected = {"total": 3 * (2 * x[:, 0] + x[:, 0]), "calls": 2}
    expected |= {f"out_{index:02}": x[:, 0] + index // 2 for index in range(SIZES)}
    for folder in (saved, compacted):
        outputs = tf.saved_model.load(str(folder)).signatures["add"](x=tf.constant(x))
        np.testing.assert_equal({name: tensor.numpy() for name, tensor in outputs.items()}, expected)
        with in_session(folder) as signatures:
            np.testing.assert_equal(dict(signatures["add"]({"x": x})), expected)
