"""The course of one answer through its attempts: what its caller has, who failed it, and what comes next."""

import time
from collections.abc import Callable

from expertmesh.v1.generation_pb2 import Finished, GenerateRequest, RouteChosen, StageTimings
from mesh_wire.deadlines import put_s, seconds
from mesh_wire.errors import MeshError
from mesh_wire.outlets import Outlet
from mesh_wire.resuming import Delivered, obstacle
from router_svc.attempts import Standing, Then, Verdict
from router_svc.choosing.decision import Decision, Wish


class Course:
    """One answer. It is also the `Relay` of each attempt: the route before the answer's first event, the router's own
    stages in its last."""

    def __init__(
        self, request: GenerateRequest, outlet: Outlet, timings: StageTimings, first_token: Callable[[str], None]
    ) -> None:
        """`first_token` is told the expert when the caller gets its first token here."""
        self.delivered = Delivered(request.resume if request.HasField("resume") else None)
        self.excluded: set[str] = set()  # endpoints that are not to be asked now
        self.failure: MeshError | None = None  # of the attempt before
        self.ended: Finished | None = None
        self.attempt = 0
        self.moves = 0  # attempts that went on from where another was cut off
        self.chosen = RouteChosen()
        self.decision: Decision  # of this attempt
        self._request = request
        self._outlet = outlet
        self._timings = timings
        self._first_token = first_token
        self._begun = False  # this attempt
        self._route_told = False
        self._expert = ""  # that began the answer; empty: nobody has
        self._sent_at = self._first_at = 0.0

    @property
    def tokens(self) -> int:
        """Tokens that the caller has, those that it came with included."""
        return len(self.delivered.token_ids)

    def wish(self, first: Wish) -> Wish:
        """Return what the next attempt asks of the decision; an answer that has begun stays with its expert."""
        return first._replace(pinned=self._expert) if self._expert else first

    def next(self, decision: Decision, chosen: RouteChosen) -> None:
        """Begin an attempt at the replica that was chosen."""
        self.decision, self.chosen = decision, chosen
        self._begun = False
        self._sent_at = self._first_at = time.monotonic()

    def take_up(self, decision: Decision, chosen: RouteChosen, delivered: Delivered) -> None:
        """Go on with one of two replicas that were asked at once: it was the first to say anything."""
        self.decision, self.chosen, self.delivered = decision, chosen, delivered

    def begin(self) -> None:
        self._begun = True
        self._first_at = time.monotonic()
        if not self._route_told:
            self._route_told = True
            if not self.tokens:
                self._first_token(self.chosen.expert)
            self._outlet.route(self.chosen)

    def end(self, finished: Finished) -> None:
        timings = finished.timings
        at_expert_s = seconds(timings.queue) + seconds(timings.prefill)
        forward_s = max(0.0, self._first_at - self._sent_at - at_expert_s)
        timings.MergeFrom(self._timings)
        put_s(timings.forward, forward_s)
        self.ended = finished

    def standing(self, left_s: float | None) -> Standing:
        """Return how things stand now that an attempt has failed."""
        return Standing(
            tokens=self.tokens,
            begun=self._begun,
            attempts=self.attempt - self.moves,
            moves=self.moves,
            obstacle=obstacle(self._request),
            more=self.decision.more,
            left_s=left_s,
        )

    def goes_on(self, decided: Verdict) -> None:
        """Take note of a failure after which there is another attempt, and prepare the request for it."""
        self.failure = decided.error
        if self._begun or decided.same_too:  # time has passed: whoever refused before may have room by now
            self.excluded.clear()
        if not decided.same_too:
            self.excluded.add(self.decision.chosen.endpoint)
        if decided.then is not Then.RESUME:
            return
        self.moves += 1
        self._expert = self.decision.expert
        if self._begun or not self.delivered.times:
            self.delivered.times += 1
        self._request.resume.CopyFrom(self.delivered.resume())
