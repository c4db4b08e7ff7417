import dataclasses
from typing import get_args

import msgspec
import pytest

from guestclock.abi.arm64 import GUEST_SYSREGS, TIMER_REGS
from guestclock.machine import Arm64Spec, HostSpec
from guestclock.scenario import parse
from guestclock.scenario.document import Arm64HostTable, HostTable
from guestclock.scenario.verbs import VERBS, arm64
from guestclock.vmm.clocks import ARCHITECTURES

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


def test_the_host_tables_have_the_keys_of_the_machines():
    for table, spec in ((HostTable, HostSpec), (Arm64HostTable, Arm64Spec)):
        assert set(table.__struct_fields__) - {"arch"} == {field.name for field in dataclasses.fields(spec)}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_verb_has_a_sentence_that_names_the_vcpu(arch):
    """A sentence of the verb's own for each, with the keys it cannot do without."""
    given = {"value": "5 s", "khz": 3_000_000, "index": 0x12, "cpu": 1, "clock": "realtime", "to": "hpet", "ppb": 5}
    of_arm64 = {"x0": 0x86000001, "reg": "TIMER_CVAL"}
    for actor, verbs in VERBS[arch].items():
        for name, cls in verbs.items():
            wanted = {f.encode_name for f in msgspec.structs.fields(cls)}
            value = {**given, **of_arm64, **({"value": 5} if name.endswith("-msr") else {})}
            value |= {"reg": "CNTV_CVAL_EL0"} if actor == "guest" else {}
            keys = "\n".join(f"{k} = {v!r}" for k, v in value.items() if k in wanted)
            before = {"kick": "vmm='start'", "preempt": "vmm='start'", "exit-l2": "guest='enter-l2'\nvalue=5"}
            start = f"[[step]]\n{before[name]}\n" if name in before else ""
            nested = "nested=true\n" if arch == "arm64" else ""
            text = (
                f"about='x'\n[host]\narch='{arch}'\n[vm]\nvcpus=2\n{nested}{start}[[step]]\n{actor}='{name}'\n{keys}\n"
            )
            ((_, program),) = parse(text, "f").programs()
            say = program["steps"][-1]["say"]
            assert say
            everybody = ("create-vcpu", "stop-all-tscs", "start-all-tscs")
            assert ("vcpu" in wanted) == ("vCPU" in say) or name in everybody, say


def test_registers_are_those_of_the_abi():
    assert set(get_args(arm64.Register)) == set(TIMER_REGS)
    assert set(get_args(arm64.Sysreg)) == set(GUEST_SYSREGS)


ARM64 = """
about = "Does it?"
[host]
arch = "arm64"
counter_hz = 24_000_000
vhe = false
[vm]
vcpus = 2
expect = { cntvct = "freeze", cntpct = "run" }
[[step]]
vmm = "get-counter"
as = "c"
[[step]]
vmm = "set-counter"
timer = "physical"
vcpu = 1
value = "$c + 1 s"
[[step]]
vmm = "set-counter-offset"
value = "$c.0 - 5 ticks"
[[step]]
vmm = "start"
vcpu = 0
[[step]]
vmm = "preempt"
value = "1 ms"
[[step]]
guest = "hvc"
vcpu = 1
x0 = 0x86000001
x1 = 1
as = "ptp"
[[step]]
guest = "write-sysreg"
vcpu = 1
reg = "CNTV_CVAL_EL0"
value = "$ptp.x3 + 1 s"
[[step]]
host = "sleep"
value = "1 h"
"""


def test_a_program_on_arm64():
    scenario = parse(ARM64, "f.toml")
    assert (scenario.arch, scenario.expect.cntvct, scenario.expect.cntpct) == ("arm64", "freeze", "run")
    (variation,) = scenario.variations
    assert (variation.host.spec().counter_hz, variation.host.spec().vhe) == (24_000_000, False)
    assert variation.program == {
        "arch": "arm64", "vcpus": 2, "boot": True,
        "steps": [
            {"actor": "vmm", "do": "get-counter", "vcpus": [0, 1], "timer": "virtual", "as": "c",
             "say": "every vCPU: TIMER_CNT is read, as $c"},
            {"actor": "vmm", "do": "set-counter", "vcpus": [1], "timer": "physical",
             "value": [["own", "c", 1], ["ns", 10**9, 1]], "say": "vCPU 1: PTIMER_CNT := $c + 1 s"},
            {"actor": "vmm", "do": "set-counter-offset", "value": [["var", "c.0", 1], ["int", 5, -1]], "reserved": 0,
             "say": "SET_COUNTER_OFFSET := $c.0 - 5 ticks"},
            {"actor": "vmm", "do": "start", "vcpus": [0], "say": "vCPU 0: into KVM_RUN, to stay"},
            {"actor": "vmm", "do": "preempt", "vcpus": [0], "value": [["ns", 10**6, 1]],
             "say": "every vCPU: the host takes the CPU away for 1 ms"},
            {"actor": "guest", "do": "hvc", "vcpus": [1], "x0": 0x86000001, "x1": 1, "x2": 0, "x3": 0, "as": "ptp",
             "say": "vCPU 1: the guest's HVC 0x86000001, 0x1, as $ptp"},
            {"actor": "guest", "do": "write-sysreg", "vcpus": [1], "reg": "CNTV_CVAL_EL0",
             "value": [["var", "ptp.x3", 1], ["ns", 10**9, 1]],
             "say": "vCPU 1: the guest writes CNTV_CVAL_EL0 := $ptp.x3 + 1 s"},
            {"actor": "host", "do": "sleep", "value": [["ns", 3600 * 10**9, 1]], "kind": "s2idle",
             "say": "the host sleeps for 1 h"},
        ],
    }  # fmt: skip
