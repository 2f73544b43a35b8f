# The router: the versions of requirements/cpu.lock, and of them only what the extra `router` needs (no torch, no vLLM).
# Build from the repository's root: docker build -f deploy/router.Dockerfile .

FROM python:3.11-slim-trixie AS build
# Where pip looks, for who has indexes of their own. Only this stage knows; the image does not.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY requirements/cpu.lock requirements/
RUN pip install --no-cache-dir --constraint requirements/cpu.lock hatchling \
    && python -m venv --without-pip /opt/expertmesh
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY mesh_wire mesh_wire
COPY router_svc router_svc
COPY expert_svc expert_svc
COPY client client
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && pip --python /opt/expertmesh/bin/python install --no-cache-dir --constraint requirements/cpu.lock \
        "$(echo /wheels/expertmesh-*.whl)[router]"

FROM python:3.11-slim-trixie
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin mesh
COPY --from=build /opt/expertmesh /opt/expertmesh
WORKDIR /srv/expertmesh
COPY models/router models/router
# The mesh file is mounted; its paths start at its own folder, where the models are.
ENV PATH=/opt/expertmesh/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    EXPERTMESH_CONFIG=/srv/expertmesh/mesh.yaml
USER 10001
EXPOSE 50050
# Exec form, so that SIGTERM reaches the router, which then drains.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s \
    CMD ["python", "-m", "mesh_wire.healthcheck", "--target", "localhost:50050"]
ENTRYPOINT ["python", "-m", "router_svc"]
