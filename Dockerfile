# syntax=docker/dockerfile:1.7
# Two images from one file: `--target cpu` for the API, the scheduler and trying things out; `--target cuda` for workers on a GPU.
# The CUDA libraries come with torch's own wheels, so the host brings no more than its driver and the NVIDIA container toolkit.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# For packages that ship no wheel for this platform. Stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/likeness
ENV PATH=/opt/likeness/bin:$PATH
WORKDIR /src
COPY constraints.txt ./

FROM build AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install -c constraints.txt --index-url "$TORCH_INDEX" torch
COPY . .
RUN pip install -c constraints.txt .

FROM build AS build-cuda
# Empty: the default build on PyPI, which is CUDA's on Linux. Another CUDA: https://download.pytorch.org/whl/cu130, for example.
ARG TORCH_INDEX=
RUN pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY . .
RUN pip install -c constraints.txt .

FROM python:${PYTHON} AS runtime
RUN groupadd --gid 10001 likeness \
    && useradd --uid 10001 --gid likeness --create-home likeness \
    && install -d -o likeness -g likeness /var/lib/likeness /var/cache/likeness /weights
ENV PATH=/opt/likeness/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LIKENESS_VAR_DIR=/var/lib/likeness \
    LIKENESS_CACHE_DIR=/var/cache/likeness \
    LIKENESS_HOST=0.0.0.0 \
    HF_HOME=/weights/hub \
    XDG_CACHE_HOME=/var/cache/likeness \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/likeness/torchinductor \
    TRITON_CACHE_DIR=/var/cache/likeness/triton
WORKDIR /var/lib/likeness
EXPOSE 8000
ENTRYPOINT ["likeness"]
CMD ["--help"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/likeness /opt/likeness
USER 10001:10001

FROM runtime AS cuda
# Compiled blocks: Triton builds its launchers with a C compiler when a worker meets a shape for the first time.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=build-cuda /opt/likeness /opt/likeness
USER 10001:10001
