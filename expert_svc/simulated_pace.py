"""How long a simulated engine takes: pure functions, so that a profile can be held to what was measured elsewhere."""

from mesh_wire.settings import Simulation


def step_seconds(simulation: Simulation, *, running: int, context: int, read: int) -> float:
    """Return the simulated seconds of one engine step.

    Args:
        running: sequences in the batch, each of which gets a token.
        context: tokens before that token, of all of them together: their prompts and what they said.
        read: tokens of prompts that the step reads, for sequences that have just joined.
    """
    read_s = read / simulation.prefill_tokens_per_s if simulation.prefill_tokens_per_s else 0.0
    sequences_s = simulation.step_per_sequence_s * running + simulation.step_per_context_token_s * context
    return (read_s + simulation.step_base_s + sequences_s) * simulation.slow_factor


def fits_step(simulation: Simulation, read: int, more: int) -> bool:
    """Whether a step that reads `read` tokens of prompts may read `more`; a step's first prompt is never too long."""
    return not read or simulation.step_prompt_tokens is None or read + more <= simulation.step_prompt_tokens
