"""The one core that every transport calls: ``admission``, batching, ``answers`` in the order of the inputs."""

from service.engine.engine import Engine

__all__ = ["Engine"]
