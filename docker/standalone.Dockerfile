# Gateway and TensorFlow in one process: REST and gRPC, with nothing else to start.
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

# --- the image ---
FROM ${PYTHON_IMAGE}
COPY --from=tensorflow /packages /usr/local
COPY --from=gateway-packages /packages /usr/local
COPY --from=malgil /malgil /usr/local
COPY docker/healthcheck.py /usr/local/lib/malgil/healthcheck.py
ENV HOME=/tmp \
    MALGIL_BACKEND=embedded \
    MALGIL_HOST=0.0.0.0 \
    MALGIL_MODELS_FOLDER=/models \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
EXPOSE 8000 9000
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=300s --retries=3 \
    CMD ["python", "-I", "/usr/local/lib/malgil/healthcheck.py"]
ENTRYPOINT ["malgil"]
CMD ["serve"]
ARG REVISION
LABEL org.opencontainers.image.title="malgil/standalone" \
      org.opencontainers.image.description="Answers /v1/generate over REST and gRPC and runs the models itself" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
