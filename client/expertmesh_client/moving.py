"""An answer that outlives the server that gives it: what of it has come, and how the rest is asked for."""

from expertmesh.v1.generation_pb2 import GenerateRequest, RouteChosen
from expertmesh_client.places import is_gone
from mesh_wire.errors import MeshError
from mesh_wire.outlets import StreamOutlet
from mesh_wire.resuming import Delivered, obstacle, unsupported

ROUNDS = 3  # so often is each server tried for one answer


class OnceRouted(StreamOutlet):
    """The outlet of an answer that may come in parts: its reader is told the first part's route alone."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: RouteChosen | None = None

    def route(self, chosen: RouteChosen) -> None:
        if self.chosen is None:
            self.chosen = chosen
            super().route(chosen)


class Moving:
    """One answer on its way from server to server.

    Attributes:
        request: what to ask now.
        delivered: what has come.
    """

    def __init__(self, request: GenerateRequest, servers: int) -> None:
        self.request = request
        self.delivered = Delivered(request.resume if request.HasField("resume") else None)
        self.moves = 0
        self._servers = servers
        self._own = False  # whether `request` is a copy of ours
        self._last = len(self.delivered.token_ids)  # tokens that had come before the server that is asked now

    def worth_it(self, error: MeshError) -> bool:
        """Whether another server may go on where this one ended with `error`."""
        if self._servers == 1 or self.moves >= ROUNDS * self._servers - 1:
            return False
        return is_gone(error)

    @property
    def all_tried(self) -> bool:
        """Whether every server has been tried as often as any other: the next one has failed before."""
        return self.moves % self._servers == 0

    def move(self, error: MeshError, expert: str) -> None:
        """Prepare to ask another server for the rest.

        Args:
            error: how the last one ended.
            expert: who began the answer, as far as is known.

        Raises:
            MeshError: RESUME_UNSUPPORTED; there is a beginning that cannot go on.
        """
        self.moves += 1
        tokens = len(self.delivered.token_ids)
        if tokens and (field := obstacle(self.request)):
            raise unsupported(field, tokens) from error
        if tokens and (tokens > self._last or not self.delivered.times):
            self.delivered.times += 1
        self._last = tokens
        self.ask_again()
        if tokens:
            self.request.expert = self.request.expert or expert

    def ask_again(self) -> None:
        """Prepare to ask once more, whoever is asked: they may still be at the attempt before, and not know its end."""
        if not self._own:
            copy = GenerateRequest()
            copy.CopyFrom(self.request)
            self.request, self._own = copy, True
        self.delivered.attempt += 1
        self.request.resume.CopyFrom(self.delivered.resume())
