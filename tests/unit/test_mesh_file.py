"""Reading `mesh.yaml`."""

import re
import socket
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh_wire.mesh_file import Mistakes, read
from mesh_wire.settings import Simulation

GOOD = """
    router:
      listen: 127.0.0.1:0
      strategy: clusters
      artefact: fitted
      generalist: general
    experts:
      - name: one
        listen: 127.0.0.1:0
        serves: {general: , math: adapters/math}
        vllm: {model: models/small, dtype: bfloat16}
      - name: two
        listen: 127.0.0.1:0
        serves: {coding: }
        simulated: {slots: 4}
"""


class Folder:
    """A folder with a mesh file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "mesh.yaml"

    def write(self, text: str) -> None:
        self.file.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")

    def mistakes(self, text: str, env: dict[str, str] | None = None, **starting: Any) -> list[str]:
        """What is wrong with a file, each as line and words."""
        self.write(text)
        with pytest.raises(Mistakes) as wrong:
            read(self.file, env or {}, **starting)
        return [line.removeprefix(f"{self.file}:").strip() for line in wrong.value.lines]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen(1)
        yield busy.getsockname()[1]


def test_a_good_file_says_what_it_says(folder: Folder) -> None:
    folder.write(GOOD)

    mesh = read(folder.file, {})

    assert mesh.router.artefact == folder.path / "fitted"
    one, two = mesh.experts
    assert one.serves == {"general": None, "math": folder.path / "adapters/math"}
    assert one.vllm == {"model": "models/small", "dtype": "bfloat16"}
    assert two.simulated == Simulation(slots=4)
    assert mesh.targets == (one.listen, two.listen)


def test_the_file_of_the_repository_is_good() -> None:
    mesh = read(Path(__file__).parents[2] / "mesh.yaml", {})

    assert [list(expert.serves) for expert in mesh.experts] == [["general", "math"], ["coding", "health"]]


def test_a_model_that_is_a_folder_is_found_and_another_is_left_to_the_engine(folder: Folder) -> None:
    (folder.path / "models/small").mkdir(parents=True)
    folder.write(GOOD)

    assert read(folder.file, {}).experts[0].vllm == {
        "model": str(folder.path.resolve() / "models/small"),
        "dtype": "bfloat16",
    }


def test_an_expert_may_have_variables_of_its_own(folder: Folder) -> None:
    vllm = "vllm: {model: models/small, dtype: bfloat16}"
    folder.write(GOOD.replace(vllm, f"{vllm}\n        environment: {{CUDA_VISIBLE_DEVICES: '3'}}"))
    assert read(folder.file, {}).experts[0].environment == {"CUDA_VISIBLE_DEVICES": "3"}
    assert read(folder.file, {}, simulated=True).experts[0].simulated
    [mistake] = folder.mistakes(GOOD.replace(vllm, f"{vllm}\n        environment: {{NOT A NAME: '3'}}"))
    assert "environment" in mistake


def test_simulated_engines_take_the_place_of_real_ones(folder: Folder) -> None:
    folder.write(GOOD)

    one, two = read(folder.file, {}, simulated=True, experts=["one", "two"]).experts

    assert (one.vllm, one.simulated, one.serves) == (None, Simulation(), {"general": None, "math": None})
    assert two.simulated == Simulation(slots=4)


def test_every_mistake_is_told_with_its_line(folder: Folder, taken: int) -> None:
    told = folder.mistakes(
        f"""
        router:
          listen: 127.0.0.1:{taken}
          stratgy: random
          artefact: nowhere
          threshold: 2
          tls: {{certificate: no.pem, key: no.key}}
        experts:
          - name: one
            listen: 127.0.0.1:{taken}
            serves: {{general: , math: nowhere/math}}
            vllm: {{model: x}}
            slots: 3
          - name: one
            listen: 127.0.0.1:0
            serves: {{coding: }}
            simulated: {{slots: many}}
        nodes: 3
        """,
        router=True,
        experts=["one"],
    )

    assert {tuple(line.split(": ")[:2]) for line in told} == {
        ("2", "router.listen"),
        ("3", "router.stratgy"),
        ("4", "router.artefact"),
        ("5", "router.threshold"),
        ("6", "router.tls.certificate"),
        ("6", "router.tls.key"),
        ("8", "experts[0].name"),
        ("9", "experts[0].listen"),
        ("10", "experts[0].serves.math"),
        ("12", "experts[0].slots"),
        ("13", "experts[1].name"),
        ("16", "experts[1].simulated.slots"),
        ("17", "nodes"),
    }


def test_an_unknown_key_does_not_hide_what_the_section_lacks(folder: Folder) -> None:
    told = folder.mistakes("""
        router:
          strategy: clusters
          colour: red
        experts:
          - name: one
            serves: {general: }
            listen: 127.0.0.1:0
            flavour: sweet
    """)

    assert [re.sub(r"^(\d+): ", r"\1 ", line) for line in told] == [
        "3 router.colour: no such key",
        "8 experts[0].flavour: no such key",
        "1 router: strategy clusters needs an artefact",
        "5 experts[0]: an expert has either `vllm` or `simulated`",
    ]


SIMPLE = """
    router: {strategy: round_robin, listen: "127.0.0.1:0"}
    experts:
      - {name: one, listen: "127.0.0.1:0", serves: {general: }, simulated: {}}
"""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("round_robin", "fastest"), "1: router.strategy: "),
        (("round_robin", "pinned"), "1: router: strategy pinned needs the name of an expert"),
        (("round_robin", "round_robin, pinned: law"), "1: router.pinned: no expert process serves law"),
        (("round_robin", "round_robin, generalist: law"), "1: router.generalist: no expert process serves law"),
        (("round_robin", "round_robin, threshold: .nan"), "1: router.threshold: "),
        (("round_robin", "round_robin, targets: [a]"), "1: router.targets[0]: an address is host:port"),
        (("round_robin", "round_robin, targets: ['dns:///a']"), "1: router.targets[0]: an address is host:port"),
        (("name: one", "name: 'two words'"), "3: experts[0].name: "),
        (("simulated: {}", "simulated: {}, vllm: {}"), "3: experts[0]: an expert has either"),
        (("simulated: {}", "simulated: {slots: 0}"), "3: experts[0].simulated.slots: "),
        (("general: ", ""), "3: experts[0].serves: "),
        (("'127.0.0.1:0'", "x"), None),
    ],
)
def test_a_mistake_is_named_where_it_stands(folder: Folder, change: tuple[str, str], told: str | None) -> None:
    text = SIMPLE.replace(*change)
    if told is None:
        folder.write(text)
        assert read(folder.file, {})
    else:
        lines = folder.mistakes(text)
        assert len(lines) == 1
        assert lines[0].startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1: expected the sections router and experts"),
        ("- a\n- b", "1: expected the sections router and experts"),
        ("router: [", "1: not YAML: "),
        ("a: 1\nb: {\n", "3: not YAML: "),
        ("router: {strategy: round_robin}", "1: router: neither targets nor experts"),
        ("router:\nexperts:\n", "1: router: "),
        ("experts: []", "1: router: missing"),
    ],
)
def test_a_file_that_is_no_mesh_is_told_so(folder: Folder, text: str, told: str) -> None:
    assert folder.mistakes(text)[0].startswith(told)


def test_a_file_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(Mistakes, match=r"mesh\.yaml: No such file"):
        read(tmp_path / "mesh.yaml", {})


def test_a_file_that_is_not_text_is_told_so(folder: Folder) -> None:
    folder.file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Mistakes, match="not UTF-8"):
        read(folder.file, {})


def test_two_of_a_name_or_a_port_are_told_apart(folder: Folder) -> None:
    told = folder.mistakes("""
        router: {strategy: round_robin, listen: "127.0.0.1:7001"}
        experts:
          - {name: one, listen: "127.0.0.1:7001", serves: {general: }, simulated: {}}
          - {name: one, listen: "127.0.0.1:7002", serves: {general: }, simulated: {}}
    """)

    assert [line.split(": ")[1] for line in told] == ["experts[0].name", "experts[0].listen", "experts[1].name"]


# Files and ports


def test_files_and_ports_are_those_of_the_process_that_starts(folder: Folder, taken: int) -> None:
    text = GOOD.replace("127.0.0.1:0", f"127.0.0.1:{taken}", 1)
    folder.write(text)
    assert read(folder.file, {})

    [port, artefact] = sorted(folder.mistakes(text, router=True), key=lambda line: "artefact" in line)
    assert port.startswith(f"2: router.listen: cannot listen on 127.0.0.1:{taken}: Address already in use")
    assert artefact == f"4: router.artefact: {folder.path / 'fitted'} is not there"

    [adapter] = folder.mistakes(text, experts=["one"])
    assert adapter == f"9: experts[0].serves.math: {folder.path / 'adapters/math'} is not there"
    assert read(folder.file, {}, experts=["two"])


def test_an_address_of_no_machine_is_told_so(folder: Folder) -> None:
    for host in ("203.0.113.77", "no..such.name"):
        [told] = folder.mistakes(SIMPLE.replace("127.0.0.1:0", f"{host}:50050", 1), router=True)
        assert told.startswith(f"1: router.listen: cannot listen on {host}:50050")


def test_the_only_expert_process_needs_no_name(folder: Folder, taken: int) -> None:
    text = SIMPLE.replace("127.0.0.1:0", "127.0.0.1:1", 1).replace("127.0.0.1:0", f"127.0.0.1:{taken}")

    [told] = folder.mistakes(text, experts=[""])

    assert told.startswith("3: experts[0].listen: cannot listen")


# The environment


def test_variables_replace_fields(folder: Folder) -> None:
    folder.write(GOOD)
    env = {
        "ROUTER_THRESHOLD": "0.9",
        "ROUTER_TARGETS": "[a:1, 'dns:///b:2']",
        "EXPERT_NAME": "two",
        "EXPERT_MAX_IN_FLIGHT": "3",
        "EXPERT_SIMULATED": "{slots: 9}",
        "EXPERTMESH_CONFIG": "elsewhere",
        "EXPERT_NONSENSE": "not a field",
    }

    mesh = read(folder.file, env)

    assert mesh.router.threshold == 0.9
    assert mesh.targets == ("a:1", "dns:///b:2")
    assert [expert.max_in_flight for expert in mesh.experts] == [128, 3]
    assert mesh.experts[1].simulated == Simulation(slots=9)


def test_variables_are_those_of_the_expert_that_starts(folder: Folder) -> None:
    folder.write(GOOD)

    mesh = read(folder.file, {"EXPERT_MAX_IN_FLIGHT": "3"}, experts=["two"])

    assert [expert.max_in_flight for expert in mesh.experts] == [128, 3]


def test_variables_of_the_only_expert_need_no_name(folder: Folder) -> None:
    folder.write(SIMPLE)

    assert read(folder.file, {"EXPERT_MAX_IN_FLIGHT": "3"}, experts=[""]).experts[0].max_in_flight == 3


def test_variables_of_no_particular_expert_change_none(folder: Folder) -> None:
    folder.write(SIMPLE)

    assert read(folder.file, {"EXPERT_MAX_IN_FLIGHT": "3"}).experts[0].max_in_flight == 128


def test_a_mistake_in_a_variable_is_told_by_its_name(folder: Folder) -> None:
    env = {"ROUTER_THRESHOLD": "warm", "ROUTER_LISTEN": "{", "EXPERT_NAME": "two", "EXPERT_SIMULATED": "{slots: x}"}

    told = folder.mistakes(GOOD, env)

    assert sorted(line.partition(":")[0] for line in told) == ["EXPERT_SIMULATED", "ROUTER_LISTEN", "ROUTER_THRESHOLD"]


# Anything at all

scalars = st.none() | st.booleans() | st.integers(-5, 70000) | st.floats() | st.text(max_size=5)
keys = (
    st.sampled_from(["router", "experts", "name", "listen", "serves", "vllm", "simulated", "tls", "strategy"]) | scalars
)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(keys, trees, max_size=4))
def test_any_file_is_good_or_told_what_is_wrong(tmp_path: Path, data: dict[Any, Any]) -> None:
    import yaml

    file = tmp_path / "mesh.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    told = [str(file)]
    try:
        read(file, {})
    except Mistakes as wrong:
        told = wrong.lines
    assert told
    assert all(line.startswith(str(file)) for line in told)


# Twins in lower precision

TWINS = """
    router: {listen: "127.0.0.1:0", strategy: round_robin}
    experts:
      - name: one
        listen: 127.0.0.1:0
        serves: {general: , math: adapters/math}
        simulated: {}
      - name: two
        listen: 127.0.0.1:0
        serves: {math: adapters/math}
        variants: {math: int8, general: int8}
        simulated: {}
"""


def test_a_variant_is_served_by_the_base_model_unless_told_otherwise(folder: Folder) -> None:
    folder.write(TWINS)

    two = read(folder.file, {}).experts[1]

    assert two.variants == {"math": "int8", "general": "int8"}
    assert two.serves == {"math": folder.path / "adapters/math", "general": None}


def test_a_variant_alone_needs_no_serves(folder: Folder) -> None:
    folder.write(TWINS.replace("        serves: {math: adapters/math}\n", ""))

    assert list(read(folder.file, {}).experts[1].serves) == ["math", "general"]


def test_a_twin_of_nobody_is_a_mistake(folder: Folder) -> None:
    text = TWINS.replace("math: int8", "law: int8")

    assert folder.mistakes(text) == [
        "10: experts[1].variants.law: a twin of nobody: no expert process serves law itself; "
        "one alone stands under `serves`"
    ]


@pytest.mark.parametrize("variants", ["[math]", "{math: }", "{math: in t8}", "int8"])
def test_variants_that_say_nothing_are_mistakes(folder: Folder, variants: str) -> None:
    text = TWINS.replace("{math: int8, general: int8}", variants)

    assert all(line.startswith("10: experts[1].variants") for line in folder.mistakes(text))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("spill_ms_per_point", -1),
        ("spill_ms_per_point", ".inf"),
        ("quality_floor", 1.5),
        ("sibling_ms", ".nan"),
        ("affinity_ms", -1),
        ("load_stale_s", 0),
    ],
)
def test_prices_have_their_ranges(folder: Folder, setting: str, value: object) -> None:
    text = TWINS.replace("strategy: round_robin", f"strategy: round_robin, {setting}: {value}")

    [mistake] = folder.mistakes(text)
    assert mistake.startswith(f"1: router.{setting}: ")


def test_spilling_can_be_switched_off(folder: Folder) -> None:
    folder.write(TWINS.replace("strategy: round_robin", "strategy: round_robin, spill_ms_per_point: "))

    assert read(folder.file, {}).router.spill_ms_per_point is None


ENCRYPTED = """
    router:
      listen: 127.0.0.1:0
      strategy: random
      {router}
    experts:
      - name: one
        listen: 127.0.0.1:0
        serves: {{general: }}
        simulated: {{}}
        {expert}
"""
TLS, CLIENT_TLS = "tls: {certificate: c.pem, key: k.pem}", "expert_tls: {authority: c.pem}"


def test_tls_on_one_side_alone_is_told_with_both_lines(folder: Folder) -> None:
    assert folder.mistakes(ENCRYPTED.format(router="", expert=TLS)) == [
        "10: experts[0].tls: the router would ask one in plain text",
        "1: router: `expert_tls` is missing, and one has `tls`",
    ]
    assert folder.mistakes(ENCRYPTED.format(router=CLIENT_TLS, expert="")) == [
        "4: router.expert_tls: the router would ask one by TLS",
        "6: experts[0]: `tls` is missing in one, and the router has `expert_tls`",
    ]


def test_tls_on_both_sides_or_behind_targets_is_fine(folder: Folder) -> None:
    for router, expert in ((CLIENT_TLS, TLS), ("targets: [127.0.0.1:1]", TLS), ("", "")):
        folder.write(ENCRYPTED.format(router=router, expert=expert))
        read(folder.file, {})
