"""What is to be asked, and when: a pure function of job, rung and seed, however many processes act on it."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from expertmesh_client.load.arrivals import poisson, recorded
from expertmesh_client.load.lengths import Distribution
from expertmesh_client.load.prompts import Choice, Prompt, built_in, of_length, read_prompts
from mesh_wire.tls import ClientTls

Over = Literal["session", "generate", "direct"]
PER_USER = -1  # as a number of connections: each user has its own


class Job(BaseModel):
    """What all rungs of a ladder have in common. Fields are the command's options, whose help explains them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str
    tls: ClientTls | None = None
    token: str | None = Field(None, repr=False)  # says who asks; in no result
    over: Over = "session"
    processes: int = 1
    connections: int = 1  # of each process
    expert: str = ""
    prompts: Path | None = None  # None: those that are built in
    skew: dict[str, float] = {}
    prompt_words: str = ""  # a `Distribution`; empty: prompts as they are
    output_tokens: str = "64"  # a `Distribution`; empty: as the expert likes
    exact: bool = False  # answers are made to have that length, and not to end before
    fresh: bool = False  # no two prompts begin alike
    think_s: str = "0"  # a `Distribution`
    arrivals: Path | None = None  # moments of arrival, for rungs that have a speed
    timeout_s: float | None = None
    temperature: float | None = None
    goal_first_token_s: float | None = None  # what makes an answer a good one
    goal_per_token_s: float | None = None
    seed: int = 0
    experts: tuple[str, ...] = ()  # that the fleet serves; nobody's domain is the generalist's
    generalist: str = ""


class Rung(BaseModel):
    """One load of a ladder: so many users, so many arrivals per second, or recorded arrivals so many times as fast."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int = 0
    users: int | None = None
    rate: float | None = None
    speed: float | None = None
    warm_s: float = 2.0  # seconds under load before anything counts
    last_s: float = 10.0  # seconds that count
    drain_s: float = 30.0  # seconds that answers under way get after that

    @property
    def words(self) -> str:
        if self.users is not None:
            return f"{self.users} user{'s' * (self.users != 1)}"
        return f"{self.rate:g}/s" if self.rate is not None else f"recorded ×{self.speed:g}"

    @property
    def all_s(self) -> float:
        return self.warm_s + self.last_s


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to make."""

    text: str
    domain: str
    output_tokens: int  # 0: as the expert likes


class Asks:
    """Draws requests for one job."""

    def __init__(self, job: Job) -> None:
        """Raises BadLoad where the job's files or distributions are wrong."""
        prompts = built_in() if job.prompts is None else read_prompts(job.prompts)
        self.labelled = sum(1 for prompt in prompts if prompt.domain)
        self.prompts = len(prompts)
        self._choice = Choice(prompts, job.skew)
        self._alike: dict[str, list[Prompt]] = {}
        for prompt in prompts:
            self._alike.setdefault(prompt.domain, []).append(prompt)
        self._words = Distribution.parse(job.prompt_words, "--prompt-words") if job.prompt_words else None
        self._tokens = Distribution.parse(job.output_tokens, "--output-tokens") if job.output_tokens else None
        self.think = Distribution.parse(job.think_s, "--think")
        self._fresh = job.fresh
        self.arrivals = recorded(job.arrivals) if job.arrivals is not None else []

    def draw(self, chance: random.Random) -> Ask:
        prompt = self._choice.draw(chance)
        if self._words is not None:
            prompt = of_length(prompt, self._words.draw_count(chance), chance, self._alike[prompt.domain])
        text = f"[{chance.getrandbits(48):012x}] {prompt.text}" if self._fresh else prompt.text
        return Ask(text, prompt.domain, self._tokens.draw_count(chance) if self._tokens else 0)


def open_loop(job: Job, rung: Rung, asks: Asks, worker: int) -> Iterator[tuple[float, Ask]]:
    """Yield a worker's share of an open loop: moments, in seconds from the rung's start, and what to ask then."""
    chance = _chance(job, rung, "arrivals")
    for number, at_s in enumerate(moments(rung, asks.arrivals, chance)):
        ask = asks.draw(chance)
        if number % job.processes == worker:
            yield at_s, ask


def moments(rung: Rung, arrivals: Sequence[float], chance: random.Random) -> Iterator[float]:
    """Yield when requests arrive, in seconds from the rung's start.

    Args:
        arrivals: as recorded, for a rung that has a speed; nothing follows the last.
    """
    if rung.rate is not None:
        yield from poisson(rung.rate, rung.all_s, chance)
    elif rung.speed is not None:
        yield from (at / rung.speed for at in arrivals if at / rung.speed < rung.all_s)


def users_of(job: Job, rung: Rung, worker: int) -> range:
    """Return a worker's share of a closed loop's users."""
    return range(worker, rung.users or 0, job.processes)


def user_chance(job: Job, rung: Rung, user: int) -> random.Random:
    """Return what a user draws prompts, lengths and pauses from."""
    return _chance(job, rung, f"user {user}")


def user_begins_s(rung: Rung, user: int) -> float:
    """Return when a user asks first, in seconds from the rung's start: one by one in the warm-up's first half."""
    return rung.warm_s / 2 * user / max(1, rung.users or 1)


def _chance(job: Job, rung: Rung, who: str) -> random.Random:
    return random.Random(f"{job.seed}/{rung.number}/{who}")  # noqa: S311  # a load, not a secret
