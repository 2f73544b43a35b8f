"""The engine that a section of the mesh file asks for."""

from contextlib import AbstractAsyncContextManager

from expert_svc.engine import Engine
from mesh_wire.settings import ExpertSection


def open_engine(section: ExpertSection) -> AbstractAsyncContextManager[Engine]:
    """Open the engine of one expert process.

    Raises:
        EngineFailed: it cannot start; on entering.
    """
    if section.simulated is not None:
        from expert_svc.simulated_engine import open_simulated_engine

        return open_simulated_engine(list(section.serves), section.simulated)
    from expert_svc.vllm_engine import VllmSettings, open_vllm_engine

    settings = VllmSettings(serves=section.serves, engine_args=section.vllm or {}, environment=section.environment)
    return open_vllm_engine(settings)
