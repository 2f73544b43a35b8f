"""The most that the generator can do on this machine, so that nobody takes it for the target's limit."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from expertmesh_client.load.crew import Crew, crew_of
from expertmesh_client.load.lengths import Distribution
from expertmesh_client.load.plan import PER_USER, Job, Rung
from expertmesh_client.load.problems import LoadFailed
from expertmesh_client.load.show import Show, Silent

USERS = 64  # of each process
WARM_S, LAST_S = 0.5, 2.0
MANY_TOKENS = 64  # of an answer, where the job does not say more
BUSY_SHARE = 0.95
Used = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What the generator did against an endpoint on this machine that answers at once."""

    requests_per_s: float  # of one token each
    tokens_per_s: float  # in long answers
    us_per_request: float  # of processor time in all workers
    us_per_token: float  # the same, requests' own share in it
    lag_p99_s: float  # of requests at half that many arrivals per second
    loop_share: float  # of a core, used by the busiest worker's event loop
    endpoint_share: float  # the same of the endpoint
    limit: str  # what gave out first

    def share_of(self, requests_per_s: float, tokens_per_s: float) -> float:
        """Return the share of the ceiling that a load used: costs of requests and of tokens add up."""
        # A request's one token is part of its cost.
        more_tokens = max(0.0, tokens_per_s - requests_per_s)
        return requests_per_s / self.requests_per_s + more_tokens / self.tokens_per_s


async def measure_ceiling(job: Job, show: Show | None = None) -> Ceiling:
    """Put as much load as can be on an endpoint that answers at once, in the job's own way.

    Raises:
        LoadFailed: the endpoint or a worker did not start.
    """
    async with _endpoint() as (target, used):
        connections = 1 if job.connections == PER_USER else job.connections
        over = "session" if job.over == "direct" else job.over  # which is how answers come then, too
        about: dict[str, Any] = {"target": target, "tls": None, "over": over, "connections": connections, "expert": ""}
        about |= {"think_s": "0", "timeout_s": None, "experts": (), "arrivals": None, "token": None}
        short = job.model_copy(update={**about, "output_tokens": "1"})
        wanted = Distribution.parse(job.output_tokens, "--output-tokens").first if job.output_tokens else 0.0
        long = job.model_copy(update={**about, "output_tokens": str(max(MANY_TOKENS, round(wanted)))})
        closed = Rung(users=USERS * job.processes, warm_s=WARM_S, last_s=LAST_S, drain_s=2)
        shown = show or Silent(sys.stderr)
        async with crew_of(short) as crew:
            shown.begin(closed, "the generator's ceiling, requests")
            requests = await _rate(crew, closed, "window_answers", used, shown)
            half = Rung(rate=max(1.0, requests.per_s / 2), warm_s=WARM_S, last_s=LAST_S, drain_s=2)
            shown.begin(half, "the generator's ceiling, half of that")
            lag = (await crew.run(half, shown.progress)).times["lag"].percentile(0.99)
        async with crew_of(long) as crew:
            shown.begin(closed, "the generator's ceiling, tokens")
            tokens = await _rate(crew, closed, "window_tokens", used, shown)
    return Ceiling(
        requests_per_s=requests.per_s,
        tokens_per_s=tokens.per_s,
        us_per_request=requests.us_each,
        us_per_token=tokens.us_each,
        lag_p99_s=lag or 0.0,
        loop_share=requests.loop_share,
        endpoint_share=requests.endpoint_share,
        limit=_limit(requests),
    )


@dataclass(frozen=True, slots=True)
class _Rate:
    per_s: float
    us_each: float  # processor time of all workers
    loop_share: float
    endpoint_share: float


async def _rate(crew: Crew, rung: Rung, what: str, used: Used, shown: Show) -> _Rate:
    await used()
    recorder = await crew.run(rung, shown.progress)
    per_s = max(1, recorder.counts[what]) / recorder.window_s
    return _Rate(per_s, recorder.cpu_cores / per_s * 1e6, recorder.loop_share, await used())


def _limit(rate: _Rate) -> str:
    if rate.loop_share >= BUSY_SHARE:
        return "the generator"
    if rate.endpoint_share >= BUSY_SHARE:
        return "the endpoint"
    return "the machine, which had no more processor time"


@asynccontextmanager
async def _endpoint() -> AsyncIterator[tuple[str, Used]]:
    """Run the endpoint. Yields where it serves, and what asks it for the share of a core that it used meanwhile."""
    endpoint = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "expertmesh_client.load.instant"),
        env={"GRPC_VERBOSITY": "NONE", **os.environ, "EXPERTMESH_PARENT": str(os.getpid())},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert endpoint.stdin is not None, "it was started with a pipe"
    assert endpoint.stdout is not None, "it was started with a pipe"
    stdin, stdout = endpoint.stdin, endpoint.stdout

    async def used() -> float:
        stdin.write(b"\n")
        return float(await stdout.readline() or 0)

    try:
        port = (await stdout.readline()).decode().strip()
        if not port:
            raise LoadFailed(f"the endpoint of the ceiling's measurement ended with {await endpoint.wait()}")
        yield f"127.0.0.1:{port}", used
    finally:
        stdin.close()
        await endpoint.communicate()
