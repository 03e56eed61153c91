# Trains, exports and verifies models; holds those that ship.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# --- which packages, as locked; by itself, so that only what changed there is installed anew; in every Dockerfile ---
FROM ${PYTHON_IMAGE} AS locked
WORKDIR /locked
COPY requirements.lock docker/locked.py ./
COPY docker/packages packages
RUN for list in packages/*.txt; do python locked.py requirements.lock "$list" > "$(basename "$list")"; done

# --- TensorFlow, without the headers that only compilers read; in exporter.Dockerfile and standalone.Dockerfile ---
FROM ${PYTHON_IMAGE} AS tensorflow
ARG PIP_INDEX_URL
COPY --from=locked /locked/tensorflow.txt /locked.txt
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --cache-dir=/var/cache/pip --disable-pip-version-check --root-user-action=ignore --no-deps --no-compile --require-hashes --prefix=/packages --requirement /locked.txt \
    && rm -r /packages/lib/python3.11/site-packages/tensorflow/include \
    && python -m compileall -q -j 0 -s /packages -p /usr/local /packages

# --- what the gateway needs; in every Dockerfile ---
FROM ${PYTHON_IMAGE} AS gateway-packages
ARG PIP_INDEX_URL
COPY --from=locked /locked/gateway.txt /locked.txt
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --cache-dir=/var/cache/pip --disable-pip-version-check --root-user-action=ignore --no-deps --no-compile --require-hashes --prefix=/packages --requirement /locked.txt \
    && find /packages -type d -name tests -prune -exec rm -r {} + \
    && python -m compileall -q -j 0 -s /packages -p /usr/local /packages

# --- Malgil itself; in every Dockerfile ---
FROM ${PYTHON_IMAGE} AS malgil
ARG PIP_INDEX_URL
COPY --from=locked /locked/build.txt /locked.txt
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --cache-dir=/var/cache/pip --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes --requirement /locked.txt
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY model_export model_export
COPY service service
RUN pip install --disable-pip-version-check --root-user-action=ignore --no-deps --no-compile --no-build-isolation --no-cache-dir --prefix=/malgil . \
    && python -m compileall -q -j 0 -s /malgil -p /usr/local /malgil

# --- what export needs beyond them ---
FROM ${PYTHON_IMAGE} AS exporter-packages
ARG PIP_INDEX_URL
COPY --from=locked /locked/exporter.txt /locked.txt
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --cache-dir=/var/cache/pip --disable-pip-version-check --root-user-action=ignore --no-deps --no-compile --require-hashes --prefix=/packages --requirement /locked.txt \
    && python -m compileall -q -j 0 -s /packages -p /usr/local /packages

# --- the image ---
FROM ${PYTHON_IMAGE}
COPY --from=tensorflow /packages /usr/local
COPY --from=gateway-packages /packages /usr/local
COPY --from=exporter-packages /packages /usr/local
COPY --from=malgil /malgil /usr/local
COPY models /usr/local/share/malgil/models
COPY --chmod=755 docker/export-shipped /usr/local/bin/export-shipped
# A new volume takes the owner of the folder that it is mounted on.
RUN install -d -o 65532 -g 65532 /models
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
HEALTHCHECK NONE
ENTRYPOINT ["malgil-export"]
CMD ["--help"]
ARG REVISION
LABEL org.opencontainers.image.title="malgil/exporter" \
      org.opencontainers.image.description="Trains, exports and verifies models for Malgil and TF Serving" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
