import dataclasses

import msgspec

from guestclock.machine import HostSpec
from guestclock.scenario import parse
from guestclock.scenario.document import HostTable
from guestclock.scenario.verbs import VERBS

FILE = """
about   = "Does it?"
thread  = "somewhere"
on      = ["model", "kvm"]
[host]
tsc_khz = "$khz"
[vm]
vcpus = "$n"
kvmclock = false
expect = { tsc = "run", kvmclock = "freeze" }
[vary]
khz = [2_000_000, 3_000_000]
n = [1, 2]
late = ["1 s"]
[[step]]
vmm = "get-tsc"
as = "tsc"
gap = "$late"
[[step]]
vmm = "set-tsc"
vcpu = 0
value = "$tsc.0 - $late"
say = "$late late"
[[step]]
wait = "5 s"
look = false
"""


def test_the_cross_product_in_the_order_of_the_file():
    scenario = parse(FILE, "f.toml")
    assert [values for values, _ in scenario.programs()] == [
        {"khz": khz, "n": n, "late": "1 s"} for khz in (2_000_000, 3_000_000) for n in (1, 2)
    ]
    assert [p["vcpus"] for _, p in scenario.programs()] == [1, 2, 1, 2]
    assert [v.host.spec().tsc_khz for v in scenario.variations] == [2_000_000, 2_000_000, 3_000_000, 3_000_000]


def test_a_program_is_what_the_steps_play():
    (_, program), *_ = parse(FILE.replace("n = [1, 2]", "n = [2]"), "f.toml").programs()
    assert program == {
        "vcpus": 2,
        "kvmclock": None,
        "boot": True,
        "steps": [
            {"actor": "vmm", "do": "get-tsc", "vcpus": [0, 1], "gap": [["ns", 10**9, 1]], "as": "tsc",
             "say": "every vCPU, 1 s from one to the next: MSR_IA32_TSC is read, as $tsc"},
            {"actor": "vmm", "do": "set-tsc", "vcpus": [0], "say": "1 s late",
             "value": [["var", "tsc.0", 1], ["ns", 10**9, -1]]},
            {"actor": "vmm", "do": "wait", "say": "5 s pass", "value": [["ns", 5 * 10**9, 1]], "look": False},
        ],
    }  # fmt: skip


def test_what_belongs_to_the_scenario_itself():
    scenario = parse(FILE, "f.toml")
    assert (scenario.name, scenario.about, scenario.thread) == ("f.toml", "Does it?", "somewhere")
    assert (scenario.on, scenario.kernels) == (("model", "kvm"), ())
    assert (scenario.expect.tsc, scenario.expect.kvmclock) == ("run", "freeze")


def test_the_time_it_takes_on_a_real_host():
    one, two, *_ = parse(FILE, "f.toml").variations
    assert (one.wait_ns, two.wait_ns) == (5 * 10**9, 6 * 10**9)


def test_a_new_vm_has_as_many_vcpus_as_the_first():
    text = "about='x'\n[vm]\nvcpus=2\n[[step]]\nvmm='create-vcpu'\n[[step]]\nvmm='create-vm'\n[[step]]\nvmm='run'\n"
    ((_, program),) = parse(text, "f").programs()
    assert (program["steps"][1]["count"], program["steps"][2]["vcpus"]) == (2, [0, 1])


def test_kicking_everybody_kicks_those_who_run():
    text = "about='x'\n[vm]\nvcpus=3\n[[step]]\nvmm='start'\nvcpu=[2, 0]\n[[step]]\nvmm='kick'\n[[step]]\nvmm='run'\n"
    ((_, program),) = parse(text, "f").programs()
    assert [s["vcpus"] for s in program["steps"]] == [[2, 0], [0, 2], [0, 1, 2]]


def test_the_host_table_has_the_keys_of_the_machine():
    assert set(HostTable.__struct_fields__) == {field.name for field in dataclasses.fields(HostSpec)}


def test_every_verb_has_a_sentence_that_names_the_vcpu():
    """A sentence of the verb's own for each, with the keys it cannot do without."""
    given = {"value": "5 s", "khz": 3_000_000, "index": 0x12, "cpu": 1, "clock": "tsc", "to": "hpet", "ppb": 5}
    for actor, verbs in VERBS.items():
        for name, cls in verbs.items():
            wanted = {f.encode_name for f in msgspec.structs.fields(cls)}
            value = {**given, **({"value": 5} if name.endswith("-msr") else {})}
            keys = "\n".join(f"{k} = {v!r}" for k, v in value.items() if k in wanted)
            start = "[[step]]\nvmm='start'\n" if name == "kick" else ""
            text = f"about='x'\n[vm]\nvcpus=2\n{start}[[step]]\n{actor}='{name}'\n{keys}\n"
            ((_, program),) = parse(text, "f").programs()
            say = program["steps"][-1]["say"]
            assert say
            assert ("vcpu" in wanted) == ("vCPU" in say) or name in ("create-vcpu", "stop-all-tscs", "start-all-tscs")
