"""Messages of our own, which no other library in the process registers too."""

from service.backends.tf_serving.proto import tf_serving_pb2


def test_its_package_is_our_own():
    assert tf_serving_pb2.DESCRIPTOR.package == "malgil.tf_serving"
    assert [path.name for path in tf_serving_pb2.DESCRIPTOR.dependencies] == ["google/protobuf/wrappers.proto"]
