"""Branches that most calls never take, at no cost to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def rarely(condition: tf.Tensor, body: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """``tf.cond``, for a branch that is taken in few calls: ``body`` if ``condition`` (bool scalar) holds.

    A graph visits every operation of the branch that it does not take, some 0.3 µs each, at every step of a loop. As a
    function of its own, which is not to be inlined, a branch is one operation.
    """
    if not tf.executing_eagerly():
        body = tf.function(body, autograph=False, experimental_attributes={"_noinline": True})
    return tf.cond(condition, body, otherwise)
