"""The interpreter of steps, against an executor that only remembers what it was asked."""

import pytest

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST
from guestclock.kvm import api
from guestclock.kvm.api import Host, KvmError, drive
from guestclock.scenario import parse
from guestclock.scenario.verbs import VERBS as SCENARIO_VERBS
from guestclock.vmm import steps
from guestclock.vmm.clocks import ARCHITECTURES
from guestclock.vmm.steps import PLAYS

KHZ = 2_000_000


class Fake:
    """Answers as a host at 2 GHz; each vCPU's TSC reads 1000 more than the one before. `refuses`: op names."""

    def __init__(self, *refuses):
        self.asked, self.refuses, self.vcpus, self.tsc = [], refuses, 0, 0

    def __call__(self, op):
        self.asked.append(op)
        if op.name in self.refuses:
            raise KvmError("EINVAL", op)
        if isinstance(op, api.CreateVm):
            self.vcpus = 0
        if isinstance(op, api.CreateVcpu):
            self.vcpus += 1
            return self.vcpus - 1
        if isinstance(op, api.GetTscKhz):
            return KHZ
        if isinstance(op, api.GetMsr | api.GetTscOffset):
            self.tsc += 1000
            return self.tsc
        if isinstance(op, api.GetClock):
            return api.ClockData(5_000, 14, 7_000, 9_000)
        if isinstance(op, api.ReadHostClock):
            return 11_000
        if isinstance(op, api.Run):
            return [self.guest(a) for a in op.actions]
        return 0

    def guest(self, action):
        if isinstance(action, api.ReadClocks):
            return api.ClockReading(123, None, 456, (1, 2))
        return 77 if isinstance(action, api.Rdmsr) else None


def played(toml_steps, *refuses, vcpus=2, boot=False, more=None, vm=""):
    """What the steps asked for, without the looking around after each."""
    text = f"about = 'x'\n[vm]\nvcpus = {vcpus}\nboot = {str(boot).lower()}\n{vm}\n"
    for step in toml_steps:
        text += f"[[step]]\n{step}\nlook = false\n"
    ((_, program),) = parse(text, "test").programs()
    fake = Fake(*refuses)
    drive(steps.play(Host(), {**program, **(more or {})}), fake)
    first = next((i for i, op in enumerate(fake.asked) if isinstance(op, api.Note) and op.data[0][1] == 0), 0)
    return [op for op in fake.asked[first:] if not (isinstance(op, api.Note) and op.kind == "step")]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_verb_of_a_scenario_can_be_played(arch):
    of_arch = SCENARIO_VERBS[arch].items()
    assert {(actor, name) for actor, verbs in of_arch for name in verbs} | {("vmm", "wait")} == set(PLAYS[arch].verbs)


def test_the_first_vm_is_made_and_looked_at():
    fake = Fake()
    drive(steps.play(Host(), {"vcpus": 2, "kvmclock": "old", "boot": True, "steps": []}), fake)
    assert fake.asked == [
        api.Note("start", "step", (("index", -1),)),
        api.CreateVm(),
        api.CreateVcpu(0), api.EnableKvmclock(0, 0, True),
        api.CreateVcpu(0), api.EnableKvmclock(0, 1, True),
        api.GetTscKhz(0, 0),
        api.Run(0, 0), api.Run(0, 1), api.Run(0, 0), api.Run(0, 1),
        *(api.ReadHostClock(c) for c in ("tsc", "realtime", "monotonic", "monotonic_raw", "boottime")),
        api.Peek(0, 0), api.Peek(0, 1), api.GetClock(0),
    ]  # fmt: skip


def test_without_kvmclock_no_page_is_registered():
    fake = Fake()
    drive(steps.play(Host(), {"vcpus": 1, "kvmclock": None, "boot": False, "steps": []}), fake)
    assert not any(isinstance(op, api.EnableKvmclock) for op in fake.asked)


def test_each_vcpu_is_given_its_own_saved_value():
    asked = played(["vmm = 'get-tsc'\nas = 'tsc'", "vmm = 'set-tsc'\nvalue = '$tsc + 1 us'\nvcpu = [1, 0]"])
    assert asked[2:] == [api.SetMsr(0, 1, MSR_IA32_TSC, 2000 + 2000), api.SetMsr(0, 0, MSR_IA32_TSC, 1000 + 2000)]


def test_the_highest_and_a_named_one():
    asked = played(
        [
            "vmm = 'get-tsc'\nas = 'tsc'",
            "vmm = 'set-tsc-offset'\nvalue = 'max($tsc) - $tsc.0'",
            "vmm = 'set-tsc-adjust'\nvalue = 'max($tsc)'\nvcpu = 0",
        ]
    )
    assert asked[2:] == [
        api.SetTscOffset(0, 0, 1000), api.SetTscOffset(0, 1, 1000), api.SetMsr(0, 0, MSR_IA32_TSC_ADJUST, 2000),
    ]  # fmt: skip


def test_saved_values_outlive_their_vm():
    asked = played(["vmm = 'get-tsc'\nas = 'tsc'", "vmm = 'create-vm'", "vmm = 'set-tsc'\nvalue = '$tsc'"])
    assert [op.data for op in asked if isinstance(op, api.SetMsr)] == [1000, 2000]


def test_the_gap_lies_between_two_vcpus_only():
    asked = played(["vmm = 'set-tsc'\nvalue = 0\ngap = '0.9 s'"], vcpus=3)
    assert [op.ns if isinstance(op, api.Wait) else op.vcpu for op in asked] == [0, 900_000_000, 1, 900_000_000, 2]


def test_nanoseconds_become_cycles_once():
    """At 2 GHz 1 ns is 2 cycles; the clocks' difference is converted as one number, rounded down."""
    asked = played(
        [
            "vmm = 'get-clock'\nas = 'src'",
            "vmm = 'read-clock'\nclock = 'realtime'\nas = 'now'",
            "vmm = 'set-tsc-offset'\nvcpu = 0\nvalue = '$src - $now + $src.host_tsc + $src.realtime - 1 ns'",
            "vmm = 'set-clock'\nvalue = '$src + 1 s'\nrealtime = '$src.realtime'",
        ]
    )
    assert asked[2] == api.SetTscOffset(0, 0, (5_000 - 11_000 + 7_000 - 1) * 2 + 9_000)
    assert asked[3] == api.SetClock(0, 1_000_005_000, 4, 7_000)


def test_negative_values_are_given_as_two_s_complement():
    assert played(["vmm = 'set-tsc-offset'\nvcpu = 0\nvalue = '-1 s'"]) == [api.SetTscOffset(0, 0, 2**64 - 2 * 10**9)]
    (run,) = played(["guest = 'enter-l2'\nvcpu = 0\nvalue = -5"])
    assert run.actions == (api.EnterL2(-5),)


def test_what_the_guest_reads_can_be_used():
    asked = played(
        [
            "guest = 'read'\nvcpu = 1\nas = 'r'",
            "guest = 'write-tsc'\nvcpu = 1\nvalue = '$r + 1'",
            "vmm = 'set-clock'\nvalue = '$r.kvmclock'",
            "guest = 'read-msr'\nindex = 0x12\nvcpu = 0\nas = 'm'",
            "guest = 'write-msr'\nindex = 0x12\nvcpu = 0\nvalue = '$m - 1'",
        ]
    )
    assert asked[1].actions == (api.Wrmsr(MSR_IA32_TSC, 124),)
    assert asked[2] == api.SetClock(0, 456)
    assert asked[4].actions == (api.Wrmsr(0x12, 76),)


def test_a_refusal_is_noted_and_the_next_step_follows():
    asked = played(["vmm = 'set-tsc-offset'\nvalue = 0", "vmm = 'run'\nvcpu = 0"], "SetTscOffset")
    assert asked == [
        api.SetTscOffset(0, 0, 0),
        api.Note("refused", "note", (("errno", "EINVAL"), ("op", "SetTscOffset"))),
        api.Run(0, 0),
    ]


def test_a_step_whose_value_was_never_saved_is_left_out():
    asked = played(
        ["vmm = 'get-tsc-offset'\nvcpu = 0\nas = 'o'", "vmm = 'set-tsc'\nvcpu = 0\nvalue = '$o'"], "GetTscOffset"
    )
    assert asked[1:] == [
        api.Note("refused", "note", (("errno", "EINVAL"), ("op", "GetTscOffset"))),
        api.Note("left out", "note", (("missing", "o"),)),
    ]


def test_a_kernel_that_cannot_tell_its_rate_is_told():
    asked = played(["vmm = 'set-tsc'\nvcpu = 0\nvalue = '1 ms'"], "GetTscKhz", more={"tsc_khz": 3_000_000})
    assert asked == [api.SetMsr(0, 0, MSR_IA32_TSC, 3_000_000)]


def test_a_new_rate_counts_from_then_on():
    asked = played(["vmm = 'set-tsc-khz'\nkhz = 3_000_000\nvcpu = 0"])
    assert asked == [api.SetTscKhz(0, 3_000_000, 0), api.GetTscKhz(0, 0)]
    assert played(["vmm = 'set-tsc-khz'\nkhz = 3_000_000\nscope = 'vm'"]) == [api.SetTscKhz(0, 3_000_000)]


def test_a_sleep_is_of_the_kind_asked_for():
    (sleep,) = played(["host = 'sleep'\nvalue = '1 s'"])
    assert sleep == api.HostSleep(10**9, "running", "s3")
    (sleep,) = played(["host = 'sleep'\nvalue = '1 s'\nkind = 's2idle'"])
    assert sleep == api.HostSleep(10**9, "running", "s2idle")
