from __future__ import annotations

import tensorflow as tf

from model_export.decoding.places import packed, places_of, unpacked

VALUES = tf.constant([[10, 11, 12], [20, 21, 22], [30, 31, 32]])
PLACES = places_of(tf.constant([[True, False, False], [True, True, True], [True, True, False]]))


def test_what_is_taken_is_packed_row_by_row_and_put_back() -> None:
    assert packed(VALUES, PLACES).numpy().tolist() == [10, 20, 21, 22, 30, 31]
    assert PLACES.rows.numpy().tolist() == [0, 1, 1, 1, 2, 2]
    back = unpacked(packed(VALUES, PLACES), PLACES).numpy()
    assert (back[0, 0], back[1].tolist(), back[2, :2].tolist()) == (10, [20, 21, 22], [30, 31])


def test_sequences_stay_whole() -> None:
    sequences = tf.stack([VALUES, -VALUES], axis=2)
    assert packed(sequences, PLACES).numpy().tolist()[1:3] == [[20, -20], [21, -21]]
    assert unpacked(packed(sequences, PLACES), PLACES).numpy()[1].tolist() == sequences.numpy()[1].tolist()


def test_without_beams_each_row_is_a_place() -> None:
    column = VALUES[:, :1]
    assert packed(column, None).numpy().tolist() == [10, 20, 30]
    assert unpacked(packed(column, None), None).numpy().tolist() == column.numpy().tolist()
