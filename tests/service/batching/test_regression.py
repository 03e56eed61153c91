from __future__ import annotations

import random
import statistics

import pytest

from service.batching.regression import CLIP, TRUSTED_AFTER, Regression, fit

TRUTH = (0.02, 0.003, 0.0002)


def observe(regression: Regression, count: int, noise: float = 0.0, scale: float = 1.0, seed: int = 0) -> None:
    chance = random.Random(seed)
    for _ in range(count):
        x = (1.0, chance.uniform(1, 50), chance.uniform(1, 1000))
        y = scale * sum(value * factor for value, factor in zip(x, TRUTH, strict=True))
        regression.learn(x, y * chance.lognormvariate(0.0, noise))


def error(regression: Regression, x: tuple[float, ...], scale: float = 1.0) -> float:
    truth = scale * sum(value * factor for value, factor in zip(x, TRUTH, strict=True))
    return abs(regression.predict(x) / truth - 1.0)


def test_predicts_as_the_prior_says_until_it_has_seen_something() -> None:
    assert Regression((2.0, 0.5)).predict((1.0, 10.0)) == 7.0


def test_one_observation_is_believed_although_the_prior_is_far_off() -> None:
    regression = Regression((1e-3, 1e-4, 1e-5))
    regression.learn((1.0, 20.0, 100.0), 2.0)
    assert regression.predict((1.0, 20.0, 100.0)) == pytest.approx(2.0, rel=0.02)
    assert 0.0 < regression.predict((1.0, 5.0, 10.0)) < 2.0


def test_is_trusted_once_it_has_seen_enough() -> None:
    regression = Regression((1e-3, 1e-4, 1e-5))
    observe(regression, TRUSTED_AFTER - 1)
    assert not regression.trusted
    observe(regression, 1)
    assert regression.trusted


def test_learns_what_the_observations_have_in_common() -> None:
    regression = Regression((1e-3, 1e-4, 1e-5))
    observe(regression, 300)
    for x in ((1.0, 1.0, 1.0), (1.0, 50.0, 10.0), (1.0, 5.0, 1000.0)):
        assert error(regression, x) < 0.1


def test_noise_leaves_the_sum_right() -> None:
    regression = Regression((1e-3, 1e-4, 1e-5))
    observe(regression, 500, noise=0.4)
    assert error(regression, (1.0, 25.0, 500.0), scale=1.083) < 0.15, "exp(0.4 ** 2 / 2) = 1.083 is the noise's mean"


def test_a_freak_counts_for_little_and_a_lasting_change_is_followed() -> None:
    regression = Regression((1e-3, 1e-4, 1e-5))
    observe(regression, 200)
    x = (1.0, 25.0, 500.0)
    before = regression.predict(x)
    regression.learn(x, 1000.0 * before)
    assert regression.predict(x) < before * (1.0 + 0.05 * CLIP)
    observe(regression, 400, scale=10.0, seed=1)
    assert error(regression, x, scale=10.0) < 0.2


def test_no_coefficient_becomes_negative() -> None:
    regression = Regression((1.0, 1.0))
    for step in range(1, 100):
        x = float(step % 10 + 1)
        regression.learn((1.0, x), 12.0 - x)  # falls: the best line has a negative slope
        assert all(factor >= 0.0 for factor in regression._factors)
    assert regression.predict((1.0, 100.0)) == pytest.approx(6.5, rel=0.1)


def table(noise: float = 0.0, truth: tuple[float, ...] = TRUTH) -> list[tuple[tuple[float, ...], float]]:
    chance = random.Random(3)
    xs = [(1.0, float(steps), float(steps * rows)) for steps in (4, 16, 64) for rows in (1, 4, 16, 64)]
    return [
        (x, sum(value * factor for value, factor in zip(x, truth, strict=True)) * chance.lognormvariate(0.0, noise))
        for x in xs
    ]


def test_a_table_is_fitted() -> None:
    found = fit(table())
    assert found.coefficients == pytest.approx(TRUTH)
    assert found.errors == pytest.approx([0.0] * 12, abs=1e-9)


def test_short_and_long_calls_count_alike_in_a_fit() -> None:
    found = fit(table(noise=0.05))
    assert max(map(abs, found.errors)) < 0.15
    assert statistics.fmean(found.errors) == pytest.approx(0.0, abs=0.02)


def test_a_fit_has_no_negative_coefficients() -> None:
    falling = [((1.0, x, 1.0 / x), 10.0 - x) for x in (1.0, 2.0, 4.0, 8.0)]
    found = fit(falling)
    assert min(found.coefficients) > 0.0
    assert found.coefficients[1] < 1e-3


def test_a_fit_is_held_to_as_firmly_as_it_weighs() -> None:
    x = (1.0, 16.0, 64.0)
    expected = sum(value * factor for value, factor in zip(x, TRUTH, strict=True))
    found = fit(table())
    after = {}
    for weight in (1.0, 16.0):
        regression = Regression(found.coefficients, found.certainty, weight)
        assert regression.trusted == (weight >= TRUSTED_AFTER)
        assert regression.predict(x) == pytest.approx(expected)
        for _ in range(4):
            regression.learn(x, 1.5 * expected)
        after[weight] = regression.predict(x) / expected
    assert 1.0 < after[16.0] < 1.25 < after[1.0] < 1.5


def test_what_a_fit_tells_apart_stays_apart_where_all_calls_are_alike() -> None:
    found = fit(table())
    regression = Regression(found.coefficients, found.certainty, 16.0)
    x, other = (1.0, 16.0, 64.0), (1.0, 64.0, 64.0)
    before = regression.predict(other) / regression.predict(x)
    for _ in range(20):
        regression.learn(x, 1.2 * error_free(x))
    assert regression.predict(other) / regression.predict(x) == pytest.approx(before, rel=0.1)


def error_free(x: tuple[float, ...]) -> float:
    return sum(value * factor for value, factor in zip(x, TRUTH, strict=True))
