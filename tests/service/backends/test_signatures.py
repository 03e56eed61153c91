import numpy as np
import pytest

from model_export.contract import SignatureSpec, TensorSpec
from service.backends.signatures import check_inputs
from service.errors import BackendFailed

SIGNATURE = SignatureSpec(
    inputs={
        "texts": TensorSpec("string", ("B",)),
        "ids": TensorSpec("int32", ("B", "S")),
        "weights": TensorSpec("float32", ("B", 3)),
    },
    outputs={},
)


def _inputs(rows=2, **changed):
    inputs = {
        "texts": np.array([b"a"] * rows, dtype=object),
        "ids": np.zeros((rows, 5), np.int32),
        "weights": np.zeros((rows, 3), np.float32),
    }
    return inputs | changed


def test_inputs_as_the_signature_has_them_pass():
    check_inputs("sign", SIGNATURE, _inputs())


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
        (_inputs(ids=np.zeros((2, 0), np.int32)), r"shape \(2, 0\)"),
        (_inputs(rows=0), r"shape \(0,\)"),
    ],
)
def test_inputs_that_differ_are_refused_by_name(inputs, reason):
    with pytest.raises(BackendFailed, match=reason):
        check_inputs("sign", SIGNATURE, inputs)
