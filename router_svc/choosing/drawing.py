"""Which replica of an expert answers: a pure function of their shelf, a random number and the conversation."""

from expertmesh.v1.generation_pb2 import Affinity
from router_svc.choosing.candidate import held_per_place, is_measured, is_stale
from router_svc.choosing.decision import GIVEN_UP, HOMELESS, KEPT, Policy, Wish
from router_svc.choosing.roster import Entry, Shelf

NEAR = 1.5  # replicas whose expected wait is at most so many times the least are as good as the best
NEAR_A_GUESS = 3.0  # likewise, where the least is that of an engine whose step time is assumed


def replica_of(shelf: Shelf, policy: Policy, wish: Wish) -> tuple[Affinity, Entry]:
    """Return a conversation's own replica, or the one that is drawn."""
    if wish.conversation is None or not policy.affinity_ms:
        return HOMELESS, _drawn(shelf, policy, wish)
    home = shelf.home(wish.conversation)
    if home[0] <= shelf.least_s + policy.affinity_ms / 1000:
        return KEPT, home
    return GIVEN_UP, _drawn(shelf, policy, wish)


def _drawn(shelf: Shelf, policy: Policy, wish: Wish) -> Entry:
    """Return the replica with the least expected wait; with chance, the better of two that are near the best.

    Routers that see the same loads, a moment old, would all choose the same replica until they are told better. Two
    choices spread them nearly as evenly as full knowledge would, and cost a router that is alone next to nothing. When
    what is known of the first is old news, so is the order, and the two are drawn from all. An engine that has made no
    step yet is a guess: whoever of its equals made one sooner would get nothing, or all. So more are near it, and of
    two of which one is a guess, that with fewer requests for its places is the better.

    Source:
        Mitzenmacher, The power of two choices in randomized load balancing, 2001; with old information: How useful
        is old information?, 2000.
    """
    rising = shelf.rising
    if wish.chance is None or len(rising) < 2:
        return rising[0]
    if is_stale(rising[0][3], wish.now, policy.stale_after_s):
        near = len(rising)
    elif (near := shelf.up_to((NEAR if is_measured(rising[0][3]) else NEAR_A_GUESS) * rising[0][0])) < 2:
        return rising[0]
    first, rest = divmod(wish.chance * near, 1)
    one = int(first)
    other = int(rest * (near - 1))
    other += other >= one  # the one is not drawn again
    one_wait, one_held, _, first_drawn = rising[one]
    other_wait, other_held, _, second_drawn = rising[other]
    if not (is_measured(first_drawn) and is_measured(second_drawn)):
        one_wait, other_wait = held_per_place(first_drawn), held_per_place(second_drawn)
    return rising[other if (other_wait, other_held) < (one_wait, one_held) else one]
