# syntax=docker/dockerfile:1
# Assay on NVIDIA GPUs; started without one it scores on the CPU.
#
#   docker build --tag assay .
#   docker run --gpus all --publish 127.0.0.1:8000:8000 assay [NAME|PATH|HUB_ID ...]
#
# The `base` flavour, for PyTorch's wheels bring cuBLAS, cuDNN and NCCL of their own. Its CUDA version
# is the one that PyPI's torch is built for. With @sha256:... behind the tag it is that image and no
# other: `make digests` asks for it.
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${CUDA_IMAGE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/assay \
    && python3 -m venv /build/tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_DEPS=1 \
    PIP_ONLY_BINARY=:all: \
    PIP_REQUIRE_HASHES=1
WORKDIR /build
# What Assay stands on has a layer of its own, which a change of the code leaves alone. Every file that
# is installed has one of the hashes that these lists state; `make requirements` writes them.
COPY deploy/requirements.txt deploy/build-requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/assay/bin/pip install --requirement requirements.txt \
    && /build/tools/bin/pip install --requirement build-requirements.txt
COPY pyproject.toml LICENSE README.md ./
COPY models/starter models/starter
COPY service service
# What is ours has no hash: the wheel, of the source beside it, and the CPU's attention kernel, which is
# compiled here so that the image needs no compiler.
RUN PIP_REQUIRE_HASHES=0 tools/bin/pip wheel --no-build-isolation --wheel-dir wheels . \
    && PYTHONPATH=service /opt/assay/bin/python -m assay.engine.attention.library kernels

FROM ${CUDA_IMAGE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin assay \
    && install --directory /models \
    && install --directory --owner=assay --group=assay --mode=0700 \
        /home/assay/.cache /home/assay/.cache/assay /home/assay/.cache/huggingface
# Two layers: gigabytes of dependencies, and the few megabytes that change with every version.
COPY --from=build /opt/assay /opt/assay
RUN --mount=from=build,source=/build,target=/build \
    /opt/assay/bin/pip install --no-deps --no-cache-dir --no-index /build/wheels/*.whl \
    && install --directory /opt/assay/share/assay \
    && cp --recursive /build/kernels /opt/assay/share/assay/
ENV PATH=/opt/assay/bin:$PATH \
    ASSAY_HOST=0.0.0.0 \
    ASSAY_REPOSITORY=/models
WORKDIR /home/assay
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import http.client, os; server = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('ASSAY_PORT', 8000)), timeout=4); server.request('GET', '/health/ready'); raise SystemExit(server.getresponse().status != 200)"]
ENTRYPOINT ["assay", "serve"]
