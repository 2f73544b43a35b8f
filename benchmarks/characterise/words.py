"""What the report says beside its figures."""

from collections.abc import Mapping, Sequence

KNEE = (
    " A vertical line stands at a configuration's knee: the first load with 80 % of its highest tokens/s. One without "
    "a knee still rises at the last."
)
OF_KIND = {
    "simulated": (
        "Engines are simulated: a step takes as long as a profile of published measurements says, and no GPU is here. "
        "Router, transport, client and the engines' scheduling are the real ones, each engine and the router a process "
        "of its own. All times and rates are in simulated seconds. Where the simulated GPUs would give more tokens "
        "than this machine's two cores carry, simulated time runs slower than the clock, by the speed in T1: what "
        "router and transport take on the clock then counts that much less in simulated time. What routing costs is "
        "therefore measured apart, at speed 1, and given in milliseconds of the clock (P1). Prompts have about 110 "
        "tokens, answers 64. An 8B model is not as good as a 70B one: only time and rate are compared. Carried is a "
        "load with a p95 to first token within 1 s."
    ),
    "real": (
        "Real engines and real weights: SmolLM2 135M with adapters of this repository, answers of eight tokens, no two "
        "prompts alike at their beginning. All engines share this machine's two cores, of two engines each has one, so "
        "engines are not added hardware here as GPUs would be: a second engine adds less than on a node. Tensor "
        "parallel 3 has three workers on those two cores. Carried is a load with a p95 to first token within 10 s."
    ),
}
P1 = "Above: where a routed answer's time goes beside the engine, p50 by the clock. Below: routed and direct."
P2 = "Tokens and answers per second over users."
P6 = "Who answered at each configuration's heaviest load, and how many waited for the engine with the most waiting."
STAGES = (
    "Stages of the router for answers of two tokens that are asked beside the load; forward is the way to the expert "
    "and back without the engine, rest what no stage tells: the client's way."
)
SOURCES = (
    "Each profile's file under benchmarks/characterise/profiles has its constants, the points that they were fitted "
    "to, their address and their stated error, to which a test holds them. A batch has at most 256 places: the points "
    "reach 250 users, and what a larger batch would give is not known from them."
)


def how_to_read(late: int, missing: Sequence[str], failed: Mapping[str, str]) -> str:
    """Return what must be known before any figure.

    Args:
        late: loads in which the generator was late.
        missing: a title for each cell without a complete result.
        failed: configuration -> why it could not be measured.
    """
    said = [
        "The machine has two cores and carried other work meanwhile: trust orderings and ratios, not single figures. "
        "Each load was measured once."
    ]
    if late:
        said.append(
            f"In {late} loads the load generator itself was late at p99, by more than 5 ms of the clock or 5 % of the "
            "median time to first token; they are marked * in the tables."
        )
    if missing:
        of = ", ".join(sorted(set(missing)))
        said.append(f"INCOMPLETE: {len(missing)} loads of the grid are missing or were interrupted, of: {of}.")
    said += [f"Could not be measured: {key}: {why}." for key, why in failed.items()]
    return " ".join(said)
