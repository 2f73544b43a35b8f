"""One frame: a fleet as a person sees it, in as many columns as the terminal has."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from expertmesh.v1.router_pb2 import Expert, ListExpertsResponse, Replica
from expertmesh_client.top.looking import Look
from mesh_wire.deadlines import seconds
from mesh_wire.words import reason_word

NOTHING = "–"
STYLES = {"serving": "green", "down": "red"}


@dataclass
class Seen:
    """A replica, and all that it serves."""

    replica: Replica
    serves: list[str] = field(default_factory=list)


def replicas_of(fleet: ListExpertsResponse) -> list[Seen]:
    """Return every replica once, by name and endpoint; a router tells of each under every expert that it serves."""
    found: dict[str, Seen] = {}
    for expert in fleet.experts:
        for replica in expert.replicas:
            seen = found.setdefault(replica.endpoint, Seen(replica))
            variant = next((one.variant for one in replica.description.experts if one.name == expert.name), "")
            seen.serves.append(f"{expert.name} {variant}" if variant else expert.name)
    return sorted(found.values(), key=lambda seen: (seen.replica.name, seen.replica.endpoint))


def frame(look: Look, now: float, interval_s: float) -> RenderableType:
    """Return a frame.

    Args:
        now: seconds of the clock of the look.
        interval_s: seconds until the next.
    """
    parts: list[RenderableType] = []
    if look.trouble:
        again = f"; it is asked again every {interval_s:g} s" if interval_s else ""
        parts.append(Text(f"{look.target} does not answer: {look.trouble}{again}", "bold red"))
    if look.fleet is None:
        return Group(*(parts or [Text(f"{look.target} is asked")]))
    if look.trouble:
        parts.append(Text(f"as it was {look.age_s(now):.0f} s ago:", "yellow"))
    replicas = replicas_of(look.fleet)
    parts += [
        *head(look, replicas),
        Text(),
        experts_table(look.fleet),
        Text(),
        replicas_table(replicas),
        *(Text(line, "yellow") for line in remarks(look.fleet)),
    ]
    return Group(*parts)


def head(look: Look, replicas: list[Seen]) -> Iterable[Text]:
    """Return what holds for the whole fleet."""
    fleet = look.fleet or ListExpertsResponse()
    up = sum(seen.replica.serving for seen in replicas)
    load = [seen.replica.load for seen in replicas]
    routes = sum(expert.activity.routes_per_second for expert in fleet.experts)
    tokens = sum(each.tokens_per_second for each in load)
    yield Text(
        f"{look.target}   {up} of {len(replicas)} replicas   {routes:.1f} routes/s   {tokens:.0f} tok/s   "
        f"{sum(each.running for each in load)} run, {sum(each.waiting for each in load)} wait",
        "bold",
    )
    yield Text(f"strategy {fleet.strategy}, generation {fleet.generation}", "dim")
    yield Text(whose(fleet), "dim")


def whose(fleet: ListExpertsResponse) -> str:
    """Return whose requests a router's own figures count, and over which time."""
    process = fleet.process
    if not process.workers:
        return "the router does not tell what it routes"
    own = f"routes and first tokens of {seconds(process.window):.0f} s, {process.refused} refused since its start"
    if process.workers == 1:
        return own
    return f"worker {process.worker} of {process.workers} tells, of its own requests only: {own}"


def experts_table(fleet: ListExpertsResponse) -> Table:
    """Return what each expert is asked for, and how soon it begins."""
    table = _table("EXPERT", "UP", "ROUTES/S", "FIRST p50", "p95", last="BY REASON")
    for expert in fleet.experts:
        up = sum(replica.serving for replica in expert.replicas)
        name = f"{expert.name} *" if expert.name == fleet.generalist else expert.name
        activity = expert.activity
        table.add_row(
            Text(name),
            Text(f"{up}/{len(expert.replicas)}", "green" if expert.available else "red"),
            f"{activity.routes_per_second:.1f}",
            _time(activity.first_token_p50) if activity.HasField("first_token_p50") else NOTHING,
            _time(activity.first_token_p95) if activity.HasField("first_token_p95") else NOTHING,
            Text(_reasons(expert), "dim"),
        )
    return table


def replicas_table(replicas: list[Seen]) -> Table:
    """Return how each replica is."""
    table = _table("REPLICA", "STATE", "RUN", "WAIT", "KV", "TOK/S", "EXPECT", "OURS", last="SERVES")
    for seen in replicas:
        replica, load = seen.replica, seen.replica.load
        state = "serving" if replica.serving else "down"
        told = [str(load.running), str(load.waiting), f"{load.kv_cache_use:.0%}", f"{load.tokens_per_second:.0f}"]
        table.add_row(
            Text(replica.name),
            Text(state, STYLES[state]),
            *(told if replica.serving else [NOTHING] * len(told)),
            _time(replica.expected_wait) if replica.HasField("expected_wait") else NOTHING,
            str(replica.outstanding),
            Text(", ".join(seen.serves), "dim"),
        )
    return table


def remarks(fleet: ListExpertsResponse) -> Iterable[str]:
    """Return what else somebody should know who looks."""
    if fleet.strategy_trouble:
        yield f"strategy {fleet.strategy} in trouble: {fleet.strategy_trouble}"
    for problem in fleet.not_taken:
        yield f"not taken: {problem}"
    if fleet.drift.HasField("index"):
        yield f"traffic: {fleet.drift.verdict}"
    for gone in fleet.unreachable:
        yield f"unreachable: {gone.endpoint}: {gone.reason}"


def _table(*names: str, last: str) -> Table:
    """Return a table whose last column takes what room is left."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", expand=True)
    for name in names:
        is_text = name in (names[0], "STATE")
        table.add_column(name, no_wrap=True, justify="left" if is_text else "right", overflow="ellipsis")
    table.add_column(last, no_wrap=True, ratio=1, overflow="ellipsis")
    return table


def _reasons(expert: Expert) -> str:
    """Return why it was chosen, the most frequent reason first, as shares."""
    total = sum(each.routes for each in expert.activity.reasons)
    falling = sorted(expert.activity.reasons, key=lambda each: -each.routes)
    return ", ".join(f"{reason_word(each.reason)} {each.routes / total:.0%}" for each in falling)


def _time(took: Duration) -> str:
    took_s = seconds(took)
    if 0 < took_s < 0.0005:
        return "<1 ms"
    return f"{took_s * 1000:.0f} ms" if took_s < 0.9995 else f"{took_s:.1f} s"
