"""From published points to a profile's constants: `python -m benchmarks.characterise.fitting PROFILE` prints them.

In a closed loop of C users, of whom B = min(C, KV capacity / (prompt + output)) are in the batch, each output token
costs a user one step, and the prompts that others bring in meanwhile are read in between. So one token's time is

    B / tokens per second = base + B · per sequence + B · (prompt + output / 2) · per context token
                            + B · prompt / output / rate

which is linear in base, per sequence, per context token and 1 / rate. They are fitted by least squares of the relative
error, none below zero.
"""

import sys
from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls  # type: ignore[import-untyped]  # published without types

from benchmarks.characterise.profile import Point, load


def fitted(points: Sequence[Point], kv_capacity_tokens: int) -> dict[str, float]:
    """Return the four constants by their names in `Simulation`."""
    terms, taken = [], []
    for point in points:
        whole = point.prompt_tokens + point.output_tokens
        batch = min(point.users, kv_capacity_tokens // whole)
        context = point.prompt_tokens + point.output_tokens / 2
        terms.append([1, batch, batch * context, batch * point.prompt_tokens / point.output_tokens])
        taken.append(batch / point.tokens_per_s)
    each = np.asarray(terms, float) / np.asarray(taken)[:, None]
    base, sequence, token, read = nnls(each, np.ones(len(taken)))[0]
    return {
        "prefill_tokens_per_s": 1 / read,
        "step_base_s": base,
        "step_per_sequence_s": sequence,
        "step_per_context_token_s": token,
    }


if __name__ == "__main__":
    profile = load(sys.argv[1])
    for name, value in fitted(profile.points, profile.simulation.kv_capacity_tokens).items():
        print(f"{name}: {value:.4g}")
