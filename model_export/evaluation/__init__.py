"""Judging models on held-out pairs, wherever they run, and comparing two."""
