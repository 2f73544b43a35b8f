"""Profiles of engines on hardware that is not here are held to what was published of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.characterise.fitting import fitted
from benchmarks.characterise.foretelling import foretold
from benchmarks.characterise.profile import load, names
from expert_svc.simulated_pace import step_seconds
from mesh_wire.settings import Simulation

MEASURED = [name for name in names() if load(name).kind == "measured"]


@pytest.mark.parametrize("name", MEASURED)
def test_a_measured_profile_keeps_to_its_published_points_within_its_stated_errors(name: str) -> None:
    profile = load(name)
    assert profile.tokens_per_s_error is not None
    assert profile.first_token_error is not None
    assert len(profile.points) >= 40

    for point in profile.points:
        found = foretold(
            profile.simulation,
            users=point.users,
            prompt_tokens=point.prompt_tokens,
            output_tokens=point.output_tokens,
        )

        assert found.tokens_per_s == pytest.approx(point.tokens_per_s, rel=profile.tokens_per_s_error), point
        if point.users == 1:
            published_s = point.first_token_ms / 1e3
            assert found.first_token_s == pytest.approx(published_s, rel=profile.first_token_error), point


@pytest.mark.parametrize("name", MEASURED)
def test_its_constants_are_what_fitting_makes_of_its_points(name: str) -> None:
    profile = load(name)

    found = fitted(profile.points, profile.simulation.kv_capacity_tokens)

    assert {key: profile.constants[key] for key in found} == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize("name", names())
def test_a_profile_says_where_it_comes_from_and_its_cache_fits_beside_its_weights(name: str) -> None:
    profile = load(name)

    assert profile.derivation
    assert profile.sources
    assert all(source.address.startswith("https://") and source.taken for source in profile.sources)
    room_bytes = 80e9 * 0.92 * profile.gpus - profile.weights_gb * 1e9
    assert profile.simulation.kv_capacity_tokens * profile.kv_bytes_per_token <= room_bytes
    assert (profile.kind == "derived") == (not profile.points)


def test_what_is_derived_says_so_in_its_title() -> None:
    assert all("derived" in load(name).title for name in names() if load(name).kind == "derived")


PACES = st.builds(
    Simulation,
    prefill_tokens_per_s=st.floats(100, 1e5),
    step_base_s=st.floats(1e-4, 0.1),
    step_per_sequence_s=st.floats(0, 1e-3),
    step_per_context_token_s=st.floats(0, 1e-6),
    slots=st.integers(1, 64),
    step_prompt_tokens=st.none() | st.integers(1, 4096),
)


@given(PACES, st.integers(1, 100), st.integers(1, 500), st.integers(1, 40))
def test_no_load_gets_more_than_full_batches_could_give(pace: Simulation, users: int, prompt: int, output: int) -> None:
    found = foretold(pace, users=users, prompt_tokens=prompt, output_tokens=output)

    batch = min(users, pace.slots)
    fastest_s = step_seconds(pace, running=batch, context=batch * prompt, read=0)
    assert 0 < found.running <= batch
    assert found.tokens_per_s <= batch / fastest_s * (1 + 1e-9)
    assert found.first_token_s <= found.session_s


@given(PACES, st.integers(1, 500))
def test_a_user_alone_waits_for_one_step_and_then_for_one_per_token(pace: Simulation, prompt: int) -> None:
    found = foretold(pace, users=1, prompt_tokens=prompt, output_tokens=3)

    steps = [step_seconds(pace, running=1, context=prompt + said, read=prompt * (not said)) for said in range(3)]
    assert found.first_token_s == pytest.approx(steps[0])
    assert found.session_s == pytest.approx(sum(steps))
