"""Bringing a version of a model into use step by step, and back: what moves is labels.

``steps``: what labels become. ``gateways``: what is ready, and where labels have moved. ``stores``: where labels are
written. ``moving`` puts them together, and ``summary`` tells how things stand.
"""

from service.rollout.gateways import Gateway, look
from service.rollout.moving import move, remove, waiting_for
from service.rollout.steps import RolloutError, back, to_canary, to_stable
from service.rollout.stores import ConfigMap, LabelsStore, YamlFile
from service.rollout.summary import summary

__all__ = [
    "ConfigMap",
    "Gateway",
    "LabelsStore",
    "RolloutError",
    "YamlFile",
    "back",
    "look",
    "move",
    "remove",
    "summary",
    "to_canary",
    "to_stable",
    "waiting_for",
]
