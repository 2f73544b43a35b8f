"""What `mesh.yaml` may say of admission: `router.admission`. See docs/overload.md."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mesh_wire.section import Count, Name, Section

PRIORITIES = ("interactive", "standard", "batch")  # the highest first
PriorityName = Literal["interactive", "standard", "batch"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class CallerLimits(Section):
    """How much one caller may ask for. What is absent is not limited. Each worker of a router has an equal share."""

    weight: Positive = 1.0  # its share of what there is too little of, beside the weights of others in its class
    requests_per_s: Positive | None = None  # in the long run; more get CALLER_RATE
    tokens_per_s: Positive | None = None  # of prompts and answers together, in the long run; more get CALLER_RATE
    burst_s: Positive = 5.0  # seconds' worth of both rates that can be asked for at once, after a pause as long
    max_in_flight: Count | None = None  # requests under way at once; more get CALLER_BUSY
    priority: PriorityName = "standard"  # class of its requests that name none
    best_priority: PriorityName = "interactive"  # the highest that its requests can have

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if PRIORITIES.index(self.priority) < PRIORITIES.index(self.best_priority):
            raise ValueError(f"`priority` {self.priority} is above `best_priority` {self.best_priority}")
        return self


class AdmissionSection(Section):
    """Who is let in, and who goes next, when more is asked than there is room for."""

    queue: Count = 12  # requests that may wait before the replicas of an expert; more get EXPERT_BUSY
    max_wait_s: Positive | None = None  # expected seconds of waiting, in place of `queue`
    lower_share: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of what goes is each lower class's, while it waits
    callers: dict[Name, CallerLimits] = Field(default_factory=dict)  # by a caller's name
    others: CallerLimits = CallerLimits()  # of each caller that has no entry, and of all together that have no name
