"""Warm-up records: requests that TF Serving runs before it calls a version available.

The first run of a graph instantiates its functions and picks its kernels; the records do so for every signature, for
one row and for a full batch, greedy and with beams.
https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from model_export.artifact.calls import (
    Arrays,
    Row,
    generate_ids_inputs,
    generate_inputs,
    padded,
    score_ids_inputs,
    text_array,
)
from model_export.contract import WARMUP_RECORDS, Limits, Manifest

BATCH_SIZES: Final = (1, 8)
BEAM_SIZES: Final = (1, 4)

_MAX_NEW_TOKENS = 16  # as many passes through the loop as kernels need


def write_warmup_records(artifact: Path, rows: Sequence[Row], manifest: Manifest) -> None:
    """Write ``assets.extra/tf_serving_warmup_requests``.

    Args:
        artifact: the folder of the version.
        rows: real inputs, without options.
        manifest: the artifact's.
    """
    path = artifact / WARMUP_RECORDS
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in warmup_calls(rows, manifest.limits):
            if signature in manifest.signatures:
                writer.write(_record(manifest.model_name, signature, inputs))


def warmup_calls(rows: Sequence[Row], limits: Limits) -> Iterator[tuple[str, Arrays]]:
    """Signature names with inputs, in the order in which they are run."""
    texts = text_array([row.text for row in rows])
    one, short = texts[:1], text_array([""])
    ids, lengths = padded([row.source_ids[:-1] for row in rows])
    yield "describe", {"unused": one}
    yield "tokenize", {"texts": texts}
    yield "detokenize", {"ids": ids, "lengths": lengths}
    for beam_size in [size for size in BEAM_SIZES if size <= limits.max_beam_size]:
        for batch_size in BATCH_SIZES:
            batch = [_bounded(rows[index % len(rows)], beam_size, limits) for index in range(batch_size)]
            yield "generate_ids", generate_ids_inputs(batch)
            yield "generate", generate_inputs(batch)
    full = [rows[index % len(rows)] for index in range(BATCH_SIZES[-1])]
    targets = [row.source_ids[: limits.max_target_tokens] for row in full]  # scored by no other kernels than answers
    yield "score_ids", score_ids_inputs([row.source_ids for row in full], targets)
    yield "score", {"texts": one, "targets": short}
    yield "align", {"texts": one, "targets": short}
    yield "serving_default", {"texts": one}
    yield "beam_search", {"texts": one, "beam_size": np.array(min(BEAM_SIZES[-1], limits.max_beam_size), np.int32)}


def read_warmup_records(path: Path) -> Iterator[tuple[str, Arrays]]:
    """Signature names with inputs, as the file has them.

    Raises:
        ValueError: something else than a Predict request is recorded. tf.errors.OpError: not a record file.
    """
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.WhichOneof("log_type") != "predict_log":
            raise ValueError(f"{path}: a Predict request is expected, not {log.WhichOneof('log_type')}")
        request = log.predict_log.request
        yield (
            request.model_spec.signature_name,
            {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()},
        )


def _bounded(row: Row, beam_size: int, limits: Limits) -> Row:
    return replace(
        row, options={"beam_size": beam_size, "max_new_tokens": min(_MAX_NEW_TOKENS, limits.max_target_tokens)}
    )


def _record(model_name: str, signature: str, inputs: Arrays) -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    return log.SerializeToString()
