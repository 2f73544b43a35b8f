"""What a request asks of a decision, and the circumstances of the moment."""

import time
from collections.abc import Collection
from random import random as drawn

from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire.auth.callers import calling
from router_svc.choosing.affinity import conversation_of
from router_svc.choosing.decision import Wish


def wish_of(request: GenerateRequest, excluded: Collection[str] = ()) -> Wish:
    """Return what a request asks of the decision, now.

    Args:
        excluded: endpoints that failed it already.
    """
    chance = drawn()  # noqa: S311  # to spread load, not to keep a secret
    caller = calling()
    allowed = caller.experts if caller is not None else None
    conversation = conversation_of(request)
    return Wish(request.expert, request.precision, conversation, excluded, chance, time.monotonic(), allowed)
