"""The one core that every transport calls.

``intake``: what is accepted. ``versions`` and ``labels``: which version answers. ``runs``: ``admission``, batching,
``answers`` in the order of the inputs.
"""

from service.engine.engine import Engine
from service.engine.labels import LabelsError
from service.engine.versions import LabelStatus, ModelStatus

__all__ = ["Engine", "LabelStatus", "LabelsError", "ModelStatus"]
