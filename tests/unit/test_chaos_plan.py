"""What chaos breaks, and when."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos.__main__ import kinds_of
from benchmarks.chaos.mesh import GROUPS, PROFILE, files
from benchmarks.chaos.network import Network
from benchmarks.chaos.plan import CALM_S, KINDS, MESH, QUIET_S, STARTS_ANEW, Fault, bearable, plan
from mesh_wire import mesh_file

SEEDS = st.integers(0, 1 << 24)
SOME_KINDS = st.sets(st.sampled_from(sorted(KINDS)))
LENGTHS = st.floats(30, 900)


@given(SEEDS, LENGTHS, SOME_KINDS)
def test_the_same_seed_gives_the_same_plan(seed: int, seconds: float, kinds: set[str]) -> None:
    assert plan(seed, seconds, GROUPS, sorted(kinds)) == plan(seed, seconds, GROUPS, sorted(kinds, reverse=True))


@given(SEEDS, LENGTHS, SOME_KINDS)
def test_a_plan_begins_in_quiet_and_ends_in_calm_with_nothing_but_what_was_wished(
    seed: int, seconds: float, kinds: set[str]
) -> None:
    faults = plan(seed, seconds, GROUPS, kinds)
    assert faults == sorted(faults)
    for fault in faults:
        shortest, longest = KINDS[fault.kind].lasts_s
        assert fault.kind in kinds
        assert fault.at_s >= QUIET_S
        assert fault.at_s + fault.lasts_s <= seconds - CALM_S
        assert shortest - 0.001 <= fault.lasts_s <= longest + 0.001


@given(SEEDS)
def test_one_of_every_group_is_left_alone_at_any_moment(seed: int) -> None:
    faults = [fault for fault in plan(seed, 600, GROUPS, KINDS) if KINDS[fault.kind].out]
    for moment in [fault.at_s for fault in faults]:
        out = {fault.node for fault in faults if fault.at_s <= moment < fault.over_s}
        assert all(set(members) - out for members in GROUPS.values())


@given(SEEDS)
def test_nobody_is_hit_twice_at_once(seed: int) -> None:
    faults = plan(seed, 600, GROUPS, KINDS)
    for at, fault in enumerate(faults):
        same = [other for other in faults[at + 1 :] if other.node == fault.node and other.node != MESH]
        assert not any(fault.overlaps(other) for other in same)


@given(SEEDS)
def test_no_router_starts_while_names_lead_nowhere(seed: int) -> None:
    faults = plan(seed, 600, GROUPS, KINDS)
    gone = [fault for fault in faults if fault.kind == "dns-gone"]
    starts = [fault for fault in faults if fault.kind in STARTS_ANEW and fault.node in GROUPS["router"]]
    assert not any(one.overlaps(two) for one in gone for two in starts)


@given(SEEDS)
def test_ten_minutes_have_faults_that_overlap(seed: int) -> None:
    faults = plan(seed, 600, GROUPS, KINDS)
    assert len(faults) >= 40
    assert any(one.overlaps(two) for one, two in pairwise(faults))


def test_the_second_of_two_routers_is_not_taken_out_beside_the_first() -> None:
    first, second = GROUPS["router"]
    kill = Fault(10.0, "kill", first, 0.0)
    assert not bearable(Fault(12.0, "stop", second, 2.0), [kill], GROUPS)
    assert bearable(Fault(12.0, "lose", second, 2.0, 0.1), [kill], GROUPS)
    assert bearable(Fault(30.0, "stop", second, 2.0), [kill], GROUPS)


def test_kinds_are_known_by_the_beginnings_of_their_names() -> None:
    assert kinds_of("") == list(KINDS)
    assert kinds_of("kill, dns") == ["kill", "dns-fewer", "dns-gone", "dns-stranger"]
    with pytest.raises(Exception, match="'explode'"):
        kinds_of("kill,explode")


def test_the_mesh_that_is_broken_has_files_that_its_processes_take(tmp_path: Path) -> None:
    nodes = [node for members in GROUPS.values() for node in members]
    files(tmp_path, Network(nodes, "test", "10.0.0"), PROFILE)
    for node in nodes:
        mesh = mesh_file.read(tmp_path / f"{node}.yaml", experts=[node], serving=True)
        assert node in GROUPS["router"] or [expert.name for expert in mesh.experts] == [node]
