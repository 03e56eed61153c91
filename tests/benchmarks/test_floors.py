from __future__ import annotations

import io

from rich.console import Console

from benchmarks.floors import FLOORS, ratio_tables, ratios
from benchmarks.peers.contenders import CONTENDERS


def test_ratios_of_what_was_measured() -> None:
    medians = {("int8", (1, 1)): 2.0, ("ct2-int8", (1, 1)): 4.0, ("int8", (4, 8)): 1.0, ("naive", (4, 8)): 30.0}

    assert ratios(medians) == {("int8", "ct2-int8"): {(1, 1): 2.0}, ("int8", "naive"): {(4, 8): 30.0}}
    assert set(sum(FLOORS, ())) <= set(CONTENDERS)


def test_a_table_for_each_beam_size_with_the_floors_of_the_transformer() -> None:
    def shown(model: str) -> str:
        console = Console(file=io.StringIO(), width=100)
        for table in ratio_tables(model, {("int8", "ct2-int8"): {(1, 1): 2.0, (4, 8): 0.9}}):
            console.print(table)
        return console.file.getvalue()

    greedy, beams = shown("transformer").split("transformer, 4 beams")
    assert "2.00 (1.33)" in greedy
    assert "0.90 (0.95)" in beams
    assert "2.00 (1.33)" in shown("transformer-pre")
    assert "2.00" in shown("rnn")
    assert "(1.33)" not in shown("rnn")
