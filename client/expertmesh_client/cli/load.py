"""`expertmesh load`: a measured load on a router or an expert."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from expertmesh_client.cli import options
from expertmesh_client.cli.failures import WRONG, Failure

if TYPE_CHECKING:
    from expertmesh_client.load.plan import Rung

DEFAULT_USERS = "1,4,16"
DISTRIBUTION = "N, N..M, normal:MEAN,SD, lognormal:MEDIAN,SIGMA or exponential:MEAN"


def load(
    target: options.Target = options.DEFAULT_TARGET,
    users: Annotated[
        str,
        typer.Option(
            metavar="N,N,…",
            help="Closed loop: so many users, each asks again when it was answered. Several numbers are a ladder, "
            f"climbed one after the other. The default is {DEFAULT_USERS}.",
        ),
    ] = "",
    rate: Annotated[
        str,
        typer.Option(
            metavar="R,R,…",
            help="Open loop: so many requests per second arrive as a Poisson process, however slow the answers are.",
        ),
    ] = "",
    arrivals: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Open loop: requests arrive as recorded, a number of seconds a line, or an object with it under "at".',
        ),
    ] = None,
    speed: Annotated[str, typer.Option(metavar="X,X,…", help="Recorded arrivals come so many times as fast.")] = "1",
    think: Annotated[
        str,
        typer.Option(
            metavar="SECONDS",
            help=f"A user's pause after an answer, a distribution: {DISTRIBUTION}.",
        ),
    ] = "0",
    warm_up: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Under load before anything counts.")] = 2.0,
    duration: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Measured, at each rung.")] = 10.0,
    drain: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="For answers under way after that; what has no end then counts as unfinished.",
        ),
    ] = 30.0,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='JSON lines with "prompt", and "domain" where it is known. Without it, a few built-in prompts of six '
            "domains.",
        ),
    ] = None,
    skew: Annotated[
        str,
        typer.Option(
            metavar="DOMAIN=SHARE,…",
            help="Shares of domains, such as math=0.8; the other prompts share the rest.",
        ),
    ] = "",
    prompt_words: Annotated[
        str,
        typer.Option(
            metavar="DISTRIBUTION",
            help="Prompts are cut to so many words, or lengthened by others of their domain.",
        ),
    ] = "",
    output_tokens: Annotated[
        str,
        typer.Option(metavar="DISTRIBUTION", help="An answer's most tokens; empty: as the expert likes."),
    ] = "64",
    exact: Annotated[bool, typer.Option("--exact", help="Answers do not end before they have so many.")] = False,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Prompts begin with a number of their own: no cache helps."),
    ] = False,
    expert: options.Expert = "",
    temperature: options.Temperature = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed asks the same at the same moments.")] = 0,
    over: Annotated[
        Literal["session", "generate", "direct"],
        typer.Option(
            help="Requests share sessions, or have a call each, or the router only decides and experts are asked.",
        ),
    ] = "session",
    connections: Annotated[
        str,
        typer.Option(metavar="N|user", help="Connections of each process; user: one for each user."),
    ] = "1",
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="Share the work where one is too slow.")] = 1,
    timeout: options.Timeout = None,
    ceiling: Annotated[
        bool,
        typer.Option(
            "--ceiling",
            help="First measure how much this generator can do here at all, against an endpoint of its own that "
            "answers at once. Without a load to put on, that is all.",
        ),
    ] = False,
    goal_first_token: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Goodput counts answers whose first token came by then."),
    ] = None,
    goal_per_token: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="And whose further tokens took so long each."),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Write results to a file, anew after each rung: CSV where it ends in .csv, else JSON. May be given "
            "again.",
        ),
    ] = None,
    as_json: options.Json = False,
    tls: options.Tls = False,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
    token_file: options.TokenFile = None,
) -> None:
    """Put a load on a router or an expert, and measure what comes back.

    Times count from the moment at which a request was meant to be made, so that a slow target, or a slow generator,
    cannot hide what its callers would have waited. Only requests meant for the measured seconds count; tokens/s and
    requests/s are of what arrived in them. "between tokens" shares a delivery's tokens over the time since the one
    before; "largest gap" is the longest pause of an answer. "routed right" compares the expert that answered with the
    prompt's domain; a domain that nobody serves is the generalist's. After a failure, a user pauses for a tenth of a
    second, or as long as the answer said.

    The generator states how late it was itself and how busy; where it, or this machine, did not keep up, the result
    says so. Ctrl-C ends the load and keeps, and marks, what has been measured.

    \b
    expertmesh load                                          1, 4 and 16 users on the local mesh
    expertmesh load --users 1,10,100 --duration 30 --out ladder.csv
    expertmesh load --rate 5,10,20 --skew math=0.8 --prompts my.jsonl --output-tokens lognormal:120,0.6
    expertmesh load --ceiling                                what the generator can do

    \b
    Exit codes: 0 done; 1 the target refused, or no request was answered at some load; 2 the input or the options are
    wrong; 3 done, but the generator did not keep up at some load; 130 Ctrl-C.
    """
    options.quiet_grpc()
    import asyncio

    from expertmesh_client.cli.load_run import Run
    from expertmesh_client.load.limits import check_descriptors, descriptors
    from expertmesh_client.load.plan import PER_USER, Asks, Job
    from expertmesh_client.load.problems import BadLoad, LoadFailed
    from expertmesh_client.load.prompts import read_skew

    try:
        only_ceiling = ceiling and not (users or rate or arrivals)
        rungs = [] if only_ceiling else _rungs(users, rate, arrivals, speed, warm_up, duration, drain)
        if connections == "user" and not (rungs and rungs[0].users):
            raise BadLoad("--connections user: only a closed loop has users")
        job = Job(
            target=target,
            tls=options.tls_of(tls, ca, cert, key, server_name),
            token=options.token_of(token_file),
            over=over,
            processes=processes,
            connections=PER_USER if connections == "user" else _count(connections, "--connections"),
            expert=expert,
            prompts=prompts,
            skew=read_skew(skew),
            prompt_words=prompt_words,
            output_tokens=output_tokens,
            exact=exact,
            fresh=fresh,
            think_s=think,
            arrivals=arrivals,
            timeout_s=timeout,
            temperature=temperature,
            goal_first_token_s=goal_first_token,
            goal_per_token_s=goal_per_token,
            seed=seed,
        )
        asks = Asks(job)
        check_descriptors(job, rungs, descriptors())
        if not asks.labelled and not as_json:
            print("note: no prompt has a domain, so that routing cannot be judged", file=sys.stderr)
        code = asyncio.run(Run(job, rungs, out or [], as_json=as_json).run(with_ceiling=ceiling))
    except BadLoad as error:
        raise Failure(str(error), code=WRONG) from None
    except LoadFailed as error:
        raise Failure(str(error)) from None
    if code:
        raise typer.Exit(code)


def _rungs(
    users: str, rate: str, arrivals: Path | None, speed: str, warm_s: float, last_s: float, drain_s: float
) -> "list[Rung]":
    from expertmesh_client.load.plan import Rung
    from expertmesh_client.load.problems import BadLoad

    if sum(map(bool, (users, rate, arrivals))) > 1:
        raise BadLoad("--users, --rate and --arrivals exclude each other")

    def rung(number: int, **load: Any) -> Rung:
        return Rung(number=number, warm_s=warm_s, last_s=last_s, drain_s=drain_s, **load)

    if rate:
        return [rung(at, rate=value) for at, value in enumerate(_numbers(rate, "--rate"))]
    if arrivals:
        return [rung(at, speed=value) for at, value in enumerate(_numbers(speed, "--speed"))]
    counts = [_count(part, "--users") for part in (users or DEFAULT_USERS).split(",")]
    return [rung(at, users=count) for at, count in enumerate(counts)]


def _numbers(written: str, what: str) -> list[float]:
    from expertmesh_client.load.problems import BadLoad

    try:
        numbers = [float(part) for part in written.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise BadLoad(f"{what}: {written!r} is not a number above 0, nor several with commas")
    return numbers


def _count(written: str, what: str) -> int:
    from expertmesh_client.load.problems import BadLoad

    if not written.strip().isdecimal() or not int(written):
        raise BadLoad(f"{what}: {written!r} is not a whole number above 0")
    return int(written)
