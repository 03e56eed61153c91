"""Implementations of ``service.backend.Backend``."""
