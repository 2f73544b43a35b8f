"""What a router's spans say: attributes, made where a trace is kept."""

from expertmesh.v1.generation_pb2 import RouteChosen
from mesh_wire import inference
from mesh_wire.untraced import Attributes
from router_svc.choosing.decision import Decision
from router_svc.choosing.explaining import labels_of
from router_svc.strategies.strategy import Strategy


def classified(strategy: Strategy) -> Attributes:
    return {"expertmesh.strategy": strategy.name, "expertmesh.artefact": strategy.generation}


def selected(decision: Decision) -> Attributes:
    return {**labels_of(decision), "expertmesh.replica": decision.chosen.replica}


def called(decision: Decision, attempt: int, resumed_tokens: int) -> Attributes:
    host, _, port = decision.chosen.endpoint.rpartition(":")
    return {
        "rpc.system.name": "grpc",
        "rpc.method": f"{inference.SERVICE}/Session",
        "server.address": host,
        "server.port": int(port),
        "expertmesh.expert": decision.expert,
        "expertmesh.replica": decision.chosen.replica,
        "expertmesh.attempt": attempt,
        "expertmesh.resumed_tokens": resumed_tokens,
    }


def answered(decision: Decision, chosen: RouteChosen, counted: tuple[int, int, int]) -> Attributes:
    prompt_tokens, completion_tokens, resumed = counted
    return {
        **decided(decision, chosen),
        "expertmesh.replica": chosen.replica,
        "gen_ai.usage.input_tokens": prompt_tokens,
        "gen_ai.usage.output_tokens": completion_tokens,
        "expertmesh.resumed": resumed,
    }


def decided(decision: Decision, chosen: RouteChosen) -> Attributes:
    return {
        **labels_of(decision),
        "gen_ai.request.model": chosen.expert,
        "expertmesh.replica": chosen.replica,
        "expertmesh.score": chosen.score,
        "expertmesh.strategy": chosen.strategy,
        "expertmesh.generation": chosen.generation,
        "expertmesh.attempt": chosen.attempt,
    }
