# One image for jobs, operator, collector, router and predictor.
#
#   docker build -t plumbline:0.1.0 .               for nodes with and without GPUs: torch as PyPI has it, with CUDA 13
#   docker build -t plumbline:0.1.0-cpu --build-arg TORCH_SPEC=torch==2.13.0+cpu \
#                --build-arg TORCH_HASH=sha256:<that wheel's> \
#                --build-arg PIP_EXTRA_INDEX_URL=<torch's wheel index> .            without CUDA, gigabytes smaller
#
# Whatever is installed from an index is pinned, and its hash is checked: requirements.lock, and requirements-torch.lock
# with torch and what CUDA needs (`make lock` makes both anew). For a build that can be repeated to the last byte, pin
# the base as well: --build-arg BASE_IMAGE=python:3.11-slim-bookworm@sha256:<digest>.
#
# The locks are for linux/amd64; on another machine (an arm64 laptop, say) add --platform linux/amd64.
#
# PIP_INDEX_URL and PIP_EXTRA_INDEX_URL are pip's own variables; neither they nor any secret end up in the image.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# Wheels only: building a source archive would fetch build tools whose hashes nobody checks.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ONLY_BINARY=:all:
RUN if [ "$(uname -m)" != x86_64 ]; then \
        echo "requirements*.lock are for linux/amd64, and this is $(uname -m): build with --platform linux/amd64" >&2; exit 1; \
    fi \
    && python -m venv /opt/plumbline
ENV PATH=/opt/plumbline/bin:$PATH
WORKDIR /src
# Heavy and seldom changed first: a change in our code rebuilds only the last layer.
ARG TORCH_SPEC=""
ARG TORCH_HASH=""
COPY requirements-torch.lock requirements.lock ./
RUN if [ -n "${TORCH_SPEC}" ]; then echo "${TORCH_SPEC} --hash=${TORCH_HASH}" > requirements-torch.lock; fi \
    && pip install --require-hashes --no-deps --requirement requirements-torch.lock
# Without dependencies, because the two locks hold them all, and Ray with its dashboard, through which KubeRay submits.
RUN pip install --require-hashes --no-deps --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY platform ./platform
RUN pip install --no-deps --no-build-isolation . && pip check

FROM ${BASE_IMAGE}
# wget: KubeRay's own probes of Ray pods call it. Debian keeps no old versions, so a pin would soon break the build.
# hadolint ignore=DL3008
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
