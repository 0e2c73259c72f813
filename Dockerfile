# syntax=docker/dockerfile:1
# Assay on NVIDIA GPUs; started without one it scores on the CPU.
#
#   docker build --tag assay .
#   docker run --gpus all --publish 127.0.0.1:8000:8000 assay [NAME|PATH|HUB_ID ...]
#
# The `base` flavour, for PyTorch's wheels bring cuBLAS, cuDNN and NCCL of their own. Its CUDA version
# is the one that PyPI's torch is built for.
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${CUDA_IMAGE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/assay
ENV PATH=/opt/assay/bin:$PATH \
    PIP_CONSTRAINT=/build/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# What Assay stands on has a layer of its own, which a change of the code leaves alone.
COPY constraints.txt pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; extras = project['optional-dependencies']; print(*project['dependencies'], *extras['serve'], *extras['tracing'], sep='\n')" > requirements.txt \
    && pip install --requirement requirements.txt
COPY LICENSE README.md ./
COPY models/starter models/starter
COPY service service
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir wheels .

FROM ${CUDA_IMAGE}
# g++ is for the CPU's attention kernel and, with Python's headers, for compiled blocks.
# python3-dev has those of the interpreter beside it, which runs the server.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3 python3-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin assay \
    && install --directory --owner=assay --group=assay \
        /home/assay/.cache /home/assay/.cache/assay /home/assay/.cache/huggingface /models
# Two layers: gigabytes of dependencies, and the few megabytes that change with every version.
COPY --from=build /opt/assay /opt/assay
RUN --mount=from=build,source=/build/wheels,target=/wheels \
    /opt/assay/bin/pip install --no-deps --no-cache-dir --no-index /wheels/*.whl
ENV PATH=/opt/assay/bin:$PATH \
    ASSAY_HOST=0.0.0.0 \
    ASSAY_REPOSITORY=/models
WORKDIR /home/assay
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import http.client, os; server = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('ASSAY_PORT', 8000)), timeout=4); server.request('GET', '/health/ready'); raise SystemExit(server.getresponse().status != 200)"]
ENTRYPOINT ["assay", "serve"]
