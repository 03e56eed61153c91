# What stands in for the image tensorflow/serving: the tests' own model server under the name of the real one.
ARG EXPORTER
FROM ${EXPORTER}
COPY support /opt/stand-in/tests/support
COPY --chmod=755 containers/tensorflow_model_server /usr/bin/tensorflow_model_server
USER 0:0
ENTRYPOINT ["/bin/false"]
