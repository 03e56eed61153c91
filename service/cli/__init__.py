"""``malgil``: serve models, and generate from the command line. TensorFlow is imported only where a model runs."""

from service.cli.app import app, main

__all__ = ["app", "main"]
