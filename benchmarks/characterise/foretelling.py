"""What a closed loop of users would see of a simulated engine: its steps one by one in virtual time, nobody waiting.

It is what holds a profile to published points, and what says how fast a simulation may run on this machine.
"""

import random
from collections import defaultdict, deque
from dataclasses import dataclass

from expert_svc.simulated_pace import fits_step, step_seconds
from mesh_wire.settings import Simulation

ANSWERS_OF_EACH, SKIPPED_OF_EACH = 4, 1.5  # the first ones, while the loop settles, do not count


@dataclass(frozen=True, slots=True)
class Foretold:
    """What an engine gives its users together, in simulated time."""

    tokens_per_s: float
    first_token_s: float  # mean
    session_s: float  # mean
    running: float  # sequences in the batch, mean over steps


@dataclass(slots=True)
class _Request:
    asked_s: float
    says: int
    first_s: float = 0.0


def foretold(simulation: Simulation, *, users: int, prompt_tokens: int, output_tokens: int) -> Foretold:
    """Step through a closed loop in which each user asks again as soon as the answer is there.

    Users begin with answers of random lengths, so that they do not go on in step. Room is reserved for whole answers,
    whatever `kv_grows` says: without preemption, that is the same as long as there is enough.
    """
    chance, clock = random.Random(0), 0.0
    waiting = deque(_Request(0.0, chance.randint(1, output_tokens)) for _ in range(users))
    most = min(simulation.slots, max(1, simulation.kv_capacity_tokens // (prompt_tokens + output_tokens)))
    ends: defaultdict[int, list[_Request]] = defaultdict(list)  # step -> whose last token it gives
    running = context = done = step = 0
    skipped, wanted = int(SKIPPED_OF_EACH * users), ANSWERS_OF_EACH * users
    since_s, tokens, steps, batch, first_s, session_s = 0.0, 0, 0, 0, 0.0, 0.0
    while done < wanted:
        read, joined = 0, []
        while waiting and running < most and fits_step(simulation, read, prompt_tokens):
            joined.append(waiting.popleft())
            running, read, context = running + 1, read + prompt_tokens, context + prompt_tokens
        step += 1
        clock += step_seconds(simulation, running=running, context=context, read=read)
        context += running
        for request in joined:
            request.first_s = clock
            ends[step + request.says - 1].append(request)
        if done >= skipped:
            tokens, steps, batch = tokens + running, steps + 1, batch + running
        else:
            since_s = clock
        for request in ends.pop(step, ()):
            done, running, context = done + 1, running - 1, context - prompt_tokens - request.says
            if done > skipped:
                first_s, session_s = first_s + request.first_s - request.asked_s, session_s + clock - request.asked_s
            waiting.append(_Request(clock, output_tokens))
    counted = done - skipped
    return Foretold(tokens / (clock - since_s), first_s / counted, session_s / counted, batch / steps)
