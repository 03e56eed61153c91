"""Learning rates worked out by hand."""

from __future__ import annotations

import pytest
import tensorflow as tf

from model_export.config import OptimizerConfig
from model_export.training.schedules import WarmupSchedule


def rates(total_steps: int, **config: object) -> list[float]:
    """The rate of each step of a run."""
    schedule = WarmupSchedule(OptimizerConfig.model_validate(config), total_steps)
    return [float(schedule(tf.constant(step))) for step in range(total_steps)]


def test_warmup_then_inverse_square_root() -> None:
    found = rates(16, learning_rate=0.8, warmup_steps=4, decay_fraction=0.0)

    assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert found[8] == pytest.approx(0.8 * (4 / 9) ** 0.5)
    assert found[15] == pytest.approx(0.8 * (4 / 16) ** 0.5)


def test_linear_decay_over_the_last_steps() -> None:
    plain = rates(16, learning_rate=0.8, warmup_steps=4, decay_fraction=0.0)
    decayed = rates(16, learning_rate=0.8, warmup_steps=4, decay_fraction=0.25)

    assert decayed[:13] == pytest.approx(plain[:13])  # the 13th step is the first of the last quarter, at full rate
    assert decayed[13:] == pytest.approx([plain[13] * 3 / 4, plain[14] * 2 / 4, plain[15] * 1 / 4])


def test_constant_after_the_warmup() -> None:
    assert rates(6, schedule="constant", learning_rate=0.4, warmup_steps=2) == pytest.approx([0.2] + [0.4] * 5)


def test_no_warmup() -> None:
    assert rates(4, schedule="constant", learning_rate=0.4, warmup_steps=0) == pytest.approx([0.4] * 4)
    found = rates(4, learning_rate=0.4, warmup_steps=0, decay_fraction=0.0)
    assert found == pytest.approx([0.4, 0.4 * 2**-0.5, 0.4 * 3**-0.5, 0.2])
