"""Models in TF Serving, over gRPC and without TensorFlow."""

from service.backends.tf_serving.backend import TfServingBackend

__all__ = ["TfServingBackend"]
