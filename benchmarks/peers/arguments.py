"""Types of command line arguments."""

from __future__ import annotations


def names(text: str) -> list[str]:
    """``a,b`` -> ["a", "b"]."""
    return text.split(",")


def numbers(text: str) -> list[int]:
    """``1,8`` -> [1, 8]."""
    return [int(part) for part in text.split(",")]


def override(text: str) -> tuple[str, int]:
    """``model.hidden_size=64`` -> ("model.hidden_size", 64)."""
    key, _, value = text.partition("=")
    return key, int(value)
