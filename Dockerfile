# One image for jobs, operator, collector, router and predictor.
#
#   docker build -t plumbline:0.1.0 .                                                     CPU (the default wheel of torch)
#   docker build -t plumbline:0.1.0-cuda --build-arg TORCH_SPEC=torch==2.13.0+cu128 \
#                --build-arg PIP_EXTRA_INDEX_URL=<torch's wheel index for CUDA> .          CUDA
#
# PIP_INDEX_URL and PIP_EXTRA_INDEX_URL are pip's own variables; neither they nor any secret end up in the image.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG TORCH_SPEC=torch==2.13.0
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/plumbline
ENV PATH=/opt/plumbline/bin:$PATH
WORKDIR /src
# Heavy and seldom changed first: a change in our code rebuilds only the last layer.
COPY constraints.txt ./
RUN pip install --constraint constraints.txt "${TORCH_SPEC}"
# default: Ray's dashboard, through which KubeRay submits a job; without it a RayJob never starts.
RUN pip install --constraint constraints.txt "ray[default,train]" transformers peft kserve kopf
COPY pyproject.toml README.md LICENSE ./
COPY platform ./platform
RUN pip install --constraint constraints.txt ".[operator,tracking,qlora,postgresql,s3,parquet]"

FROM ${BASE_IMAGE}
# wget: KubeRay's own probes of Ray pods call it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 plumbline \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin plumbline
COPY --from=build /opt/plumbline /opt/plumbline
WORKDIR /app
COPY operators ./operators
COPY jobs ./jobs
# The root file system is read-only in the manifests: everything that is written goes to /tmp or a volume.
ENV PATH=/opt/plumbline/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 10001:10001
ENTRYPOINT ["plumb"]
CMD ["--help"]
