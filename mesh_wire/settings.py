"""What `mesh.yaml` may say. Every field has its meaning beside it; the reader of the file is `mesh_file`."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mesh_wire.admission_section import AdmissionSection, Positive
from mesh_wire.auth.production import secured
from mesh_wire.auth.sections import Acceptance, CallerSection, PeerSection
from mesh_wire.section import Count, KeySource, Name, Section
from mesh_wire.tls import ClientTls, ServerTls
from mesh_wire.wire_options import MAX_MESSAGE_BYTES


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("an address is host:port, such as 127.0.0.1:50050")
    return text


def _target(text: str) -> str:
    _address(text.removeprefix("dns:///"))
    return text


Address = Annotated[str, AfterValidator(_address)]
Target = Annotated[str, AfterValidator(_target)]
Seconds = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Simulation(Section):
    """A simulated engine: how fast, how large and how faulty. The defaults are as fast as the machine, and sound."""

    prefill_tokens_per_s: Annotated[float, Field(ge=0)] = 0.0  # prompt tokens read per second; 0: no time at all
    step_base_s: Seconds = 0.0  # seconds that a step takes, however few sequences it has
    step_per_sequence_s: Seconds = 0.0  # seconds that each running sequence adds to a step
    step_per_context_token_s: Seconds = 0.0  # seconds that each token before it, of prompt and answer, adds to a step
    step_prompt_tokens: Count | None = None  # tokens of prompts that a step reads at most, whole prompts; absent: all
    slots: Count = 64  # sequences that run at once
    kv_capacity_tokens: Count = 1_000_000  # tokens of prompts and answers that have room at once
    kv_grows: bool = False  # room is taken token by token, and the newest waits again where there is none, as in vLLM
    speed: Annotated[float, Field(gt=0)] = 1.0  # simulated seconds that pass in a second of the machine's
    context_length: Count = 8192  # tokens of prompt and answer together
    vocabulary_size: Annotated[int, Field(ge=1000)] = 50_000
    ends_one_in: Annotated[int, Field(ge=0)] = 0  # one token in so many ends an answer by itself; 0: none does
    slow_factor: Annotated[float, Field(gt=0)] = 1.0  # every step takes so many times as long
    dies_after_tokens: Count | None = None  # the engine dies once it has generated so many tokens in all
    dies_after_s: Seconds | None = None  # the engine dies so many seconds after it was opened
    stalls_after_tokens: Count | None = None  # no step follows once it has generated so many tokens in all


class ServerSection(Section):
    """What every server of the mesh can be told."""

    listen: Address  # host:port
    drain_grace_s: Seconds = 20.0  # seconds that open streams get after SIGTERM
    max_message_bytes: Count = MAX_MESSAGE_BYTES  # larger messages are refused
    tls: ServerTls | None = None  # PEM files; absent: plain text
    reflection: bool = True  # lets grpcurl and others ask for the schema
    channelz: bool = False  # gRPC's own inspection service
    metrics: Address | None = None  # host:port of metrics for Prometheus; of worker 2 of a router, the next port, ...


class RouterSection(ServerSection):
    """The router."""

    listen: Address = "127.0.0.1:50050"
    targets: tuple[Target, ...] = ()  # experts' addresses, or dns:///name:port for all behind a name; absent: `experts`
    expert_tls: ClientTls | None = None  # how experts are reached; absent: plain text
    strategy: Literal["cascade", "lexical", "encoder", "few_shot", "clusters", "random", "round_robin", "pinned"] = (
        "cascade"
    )
    artefact: Path | None = None  # what the strategy was fitted to, a folder made by `python -m router_svc.fit`
    classify_budget_ms: Annotated[float, Field(gt=0, le=60_000)] = 50.0  # then the cheaper strategy's scores decide
    examples: dict[Name, tuple[Text, ...]] = Field(default={})  # expert -> prompts, for `few_shot`
    pinned: Name | None = None  # the one expert of strategy `pinned`
    seed: int = 0  # of strategy `random`
    generalist: Name = "general"  # answers when the router is unsure
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.4  # a score below it means unsure
    # What a decision weighs against waiting. A point is a hundredth of probability that the expert is the right one.
    spill_ms_per_point: Milliseconds | None = 20.0  # waiting that a point is worth; nothing: no expert spills
    quality_floor: Annotated[float, Field(ge=0, le=1)] = 0.1  # no expert is spilled to whose score is below it
    sibling_ms: Milliseconds = 100.0  # waiting that full precision is worth, where an expert has a twin in a lower one
    affinity_ms: Milliseconds = 250.0  # waiting that a conversation's own replica is worth; 0: it has none
    load_stale_s: Annotated[float, Field(gt=0)] = 2.0  # silence after which a busy replica's load is old news
    stall_s: Annotated[float, Field(ge=0)] = 2.5  # a replica that hangs so long loses its requests to others; 0: never
    hedge: bool = False  # a first token that is later than the recent 95th percentile is asked for at a second replica
    workers: Count = 1  # processes that share the port; several need Linux
    max_in_flight: Count = 1000  # requests let in at once, each worker an equal share; more get ROUTER_BUSY
    admission: AdmissionSection = AdmissionSection()  # who is let in, and who goes first, while experts are full

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.strategy not in ("random", "round_robin", "pinned") and self.artefact is None:
            raise ValueError(f"strategy {self.strategy} needs an artefact")
        if self.strategy == "few_shot" and (len(self.examples) < 2 or not all(self.examples.values())):
            raise ValueError("strategy few_shot needs `examples`: a few prompts for each of two experts or more")
        if self.strategy == "pinned" and self.pinned is None:
            raise ValueError("strategy pinned needs the name of an expert under `pinned`")
        if self.workers > 1 and sys.platform != "linux":
            raise ValueError("several workers share a port on Linux only")
        return self


class ExpertSection(ServerSection):
    """One expert process: one engine, one or several experts."""

    name: Name  # what this replica calls itself
    serves: dict[Name, Path | None] = Field(min_length=1)  # expert -> LoRA adapter's folder; nothing: the base model
    variants: dict[Name, Name] = Field(default={})  # expert -> lower precision in which it is served here: a twin
    vllm: dict[str, Any] | None = None  # vLLM's engine arguments by vLLM's names, passed on and checked by vLLM
    environment: dict[Variable, str] = Field(default={})  # set before vLLM is: which GPU or cores are this engine's
    simulated: Simulation | None = None  # in place of `vllm`: a simulated engine
    max_in_flight: Count = 128  # requests let in at once, running and waiting; more get EXPERT_BUSY
    queue: Count = 12  # requests that may wait for a place in the engine; more get EXPERT_BUSY
    max_wait_s: Positive | None = None  # expected seconds of waiting for a first token, in place of `queue`
    accepts: tuple[Acceptance, ...] | None = None  # who may ask; absent: routers and tickets where there are any

    @model_validator(mode="before")
    @classmethod
    def _variants_are_served(cls, data: Any) -> Any:
        """Serve the base model for a variant that does not stand under `serves`."""
        if isinstance(data, dict) and isinstance(variants := data.get("variants"), dict):
            serves = data.get("serves") or {}
            if isinstance(serves, dict):
                return {**data, "serves": {**serves, **{name: None for name in variants if name not in serves}}}
        return data

    @model_validator(mode="after")
    def _one_engine(self) -> Self:
        if (self.vllm is None) == (self.simulated is None):
            raise ValueError("an expert has either `vllm` or `simulated`")
        return self


class TicketSection(Section):
    """Tickets, with which callers may go around the router."""

    required: bool = False  # experts refuse whoever has none; the router gives them wherever there are keys
    lifetime_s: Annotated[float, Field(gt=0, le=3600)] = 30.0  # seconds in which a ticket can be used
    keys: dict[Name, KeySource] = Field(default={})  # the first signs, all are believed

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.required and not self.keys:
            raise ValueError("tickets that are required need a key")
        return self


class Mesh(Section):
    """The whole file."""

    router: RouterSection
    experts: tuple[ExpertSection, ...] = ()
    tickets: TicketSection = TicketSection()
    callers: CallerSection | None = None  # who may call; absent: everybody may
    peers: PeerSection | None = None  # by what experts know routers; absent: by nothing
    production: bool = False  # refuses to start with anything open, and leaves reflection out; see docs/security.md

    @model_validator(mode="before")
    @classmethod
    def _closed(cls, data: Any) -> Any:
        return secured(data)

    @property
    def targets(self) -> tuple[str, ...]:
        """Where the router looks for experts."""
        return self.router.targets or tuple(expert.listen for expert in self.experts)
