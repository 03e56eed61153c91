import numpy as np
import pytest

from model_export.contract import SignatureSpec, TensorSpec
from service.backends.signatures import check_inputs, check_outputs
from service.errors import BackendFailed

SIGNATURE = SignatureSpec(
    inputs={
        "texts": TensorSpec("string", ("B",)),
        "ids": TensorSpec("int32", ("B", "S")),
        "weights": TensorSpec("float32", ("B", 3)),
    },
    outputs={"ids": TensorSpec("int32", ("B", "K")), "scores": TensorSpec("float32", ("B", "K"))},
)


def _inputs(rows=2, **changed):
    inputs = {
        "texts": np.array([b"a"] * rows, dtype=object),
        "ids": np.zeros((rows, 5), np.int32),
        "weights": np.zeros((rows, 3), np.float32),
    }
    return inputs | changed


def test_inputs_as_the_signature_has_them_pass():
    assert check_inputs("sign", SIGNATURE, _inputs()) == 2


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (_inputs(more=np.zeros(2)), r"unknown \['more'\]"),
        ({key: value for key, value in _inputs().items() if key != "ids"}, r"missing \['ids'\]"),
        (_inputs(ids=np.zeros((2, 5), np.int64)), "int64 instead of int32"),
        (_inputs(texts=np.array(["a", "b"])), "instead of string"),
        (_inputs(texts=np.array(b"a", dtype=object)), "0 dimensions instead of 1"),
        (_inputs(ids=np.zeros(2, np.int32)), "1 dimensions instead of 2"),
        (_inputs(weights=np.zeros((2, 4), np.float32)), r"shape \(2, 4\)"),
        (_inputs(ids=np.zeros((3, 5), np.int32)), r"shape \(3, 5\)"),
        (_inputs(ids=np.zeros((2, 0), np.int32)), r"shape \(2, 0\) is empty"),
        (_inputs(rows=0), r"shape \(0,\) is empty"),
    ],
)
def test_inputs_that_differ_are_refused_by_name(inputs, reason):
    with pytest.raises(BackendFailed, match=reason):
        check_inputs("sign", SIGNATURE, inputs)


def _outputs(rows=2, hypotheses=3, **changed):
    shape = rows, hypotheses
    return {"ids": np.zeros(shape, np.int32), "scores": np.zeros(shape, np.float32)} | changed


@pytest.mark.parametrize("outputs", [_outputs(), _outputs(hypotheses=0), _outputs(more=np.zeros(1))])
def test_outputs_as_the_signature_has_them_pass(outputs):
    check_outputs("sign", SIGNATURE, outputs, 2)


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ({"ids": np.zeros((2, 3), np.int32)}, "output scores of sign: it is missing"),
        (_outputs(rows=3), r"output ids of sign: shape \(3, 3\) where"),
        (_outputs(scores=np.zeros((2, 4), np.float32)), r"output scores of sign: shape \(2, 4\) where"),
        (_outputs(scores=np.zeros(2, np.float32)), "1 dimensions instead of 2"),
        (_outputs(ids=np.zeros((2, 3))), "float64 instead of int32"),
    ],
)
def test_outputs_that_differ_are_refused_by_name(outputs, reason):
    with pytest.raises(BackendFailed, match=reason):
        check_outputs("sign", SIGNATURE, outputs, 2)
