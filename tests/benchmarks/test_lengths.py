from __future__ import annotations

from benchmarks.lengths import ways
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.countdown import countdown_rows


def test_every_row_is_in_one_call_of_each_way() -> None:
    rows = countdown_rows(10, shortest=5, longest=60, vocabulary_size=1000)
    static, arrival, alike = ways(CONTENDERS["int8"], rows, batch=4)
    (own,) = ways(CONTENDERS["ct2-int8"], rows, batch=4)

    for way in (static, arrival, alike, own):
        assert sorted(index for indices in way.order for index in indices) == list(range(10))
        for indices, call in zip(way.order, way.calls, strict=True):
            assert call.sources == [rows[index].source for index in indices]
    longest = [max(rows[index].length for index in indices) + 1 for indices in static.order]
    assert [(call.min_new_tokens, call.max_new_tokens) for call in static.calls] == [(one, one) for one in longest]
    assert all(call.min_new_tokens == 0 for call in arrival.calls + alike.calls + own.calls)
    sizes = [len(source) for call in alike.calls for source in call.sources]
    assert sizes == sorted(sizes)
    assert own.calls[0].max_batch_size == 4
