"""The interpreter of arm64's steps, against an executor that only remembers what it was asked."""

import pytest

from guestclock.abi import arm64
from guestclock.kvm import api
from guestclock.kvm.api import Host, KvmError, drive
from guestclock.scenario import parse
from guestclock.vmm import steps

HZ = 24_000_000


class Fake:
    """Answers as a host at 24 MHz; each register reads 1000 more than the one before. `refuses`: op names."""

    def __init__(self, *refuses):
        self.asked, self.refuses, self.vcpus, self.value = [], refuses, 0, 0

    def __call__(self, op):
        self.asked.append(op)
        if isinstance(op, api.CreateVm):
            self.vcpus = 0
        if op.name in self.refuses and not (isinstance(op, api.CreateVcpu) and self.vcpus < 2):
            raise KvmError("EBUSY", op)
        if isinstance(op, api.CreateVcpu):
            self.vcpus += 1
            return self.vcpus - 1
        if isinstance(op, api.GetOneReg | api.GetVcpuAttr):
            self.value += 1000
            return self.value
        if isinstance(op, api.ReadHostClock):
            return HZ if op.clock == "cntfrq" else 11_000
        if isinstance(op, api.Run):
            return [self.guest(action) for action in op.actions]
        return 0

    def guest(self, action):
        if isinstance(action, api.ReadCounters):
            return api.CounterReading(123, 456, 124, (1, 2))
        if isinstance(action, api.Hvc):
            return (7, 8, 9, 10)
        return 77 if isinstance(action, api.ReadSysreg) else None


def played(toml_steps, *refuses, vcpus=2, boot=False):
    """What the steps asked for, without the looking around after each."""
    text = f"about = 'x'\n[host]\narch = 'arm64'\n[vm]\nvcpus = {vcpus}\nboot = {str(boot).lower()}\nnested = true\n"
    for step in toml_steps:
        text += f"[[step]]\n{step}\nlook = false\n"
    ((_, program),) = parse(text, "test").programs()
    fake = Fake(*refuses)
    drive(steps.play(Host(), program), fake)
    first = next((i for i, op in enumerate(fake.asked) if isinstance(op, api.Note) and op.data[0][1] == 0), 0)
    return [op for op in fake.asked[first:] if not (isinstance(op, api.Note) and op.kind == "step")]


def test_the_first_vm_is_made_and_looked_at():
    fake = Fake()
    drive(steps.play(Host(), {"arch": "arm64", "vcpus": 2, "boot": True, "steps": []}), fake)
    assert fake.asked == [
        api.Note("start", "step", (("index", -1),)),
        api.CreateVm(), api.CreateVcpu(0), api.CreateVcpu(0),
        api.ReadHostClock("cntfrq"),
        api.Run(0, 0), api.Run(0, 1),
        *(api.ReadHostClock(c) for c in ("counter", "realtime", "monotonic", "monotonic_raw", "boottime")),
        api.Peek(0, 0), api.Peek(0, 1),
    ]  # fmt: skip


def test_the_rate_is_learned_once():
    asked = played(["vmm = 'create-vm'", "vmm = 'create-vm'"])
    assert api.ReadHostClock("cntfrq") not in asked


def test_each_timer_has_its_own_register():
    asked = played(
        [
            "vmm = 'get-counter'\nas = 'v'",
            "vmm = 'get-counter'\nvcpu = 1\ntimer = 'physical'\nas = 'p'",
            "vmm = 'set-counter'\nvalue = '$v + 1 us'\nvcpu = [1, 0]",
            "vmm = 'set-counter'\ntimer = 'physical'\nvalue = '$p - 1'\nvcpu = 1",
        ]
    )
    virtual, physical = arm64.KVM_REG_ARM_TIMER_CNT, arm64.KVM_REG_ARM_PTIMER_CNT
    assert asked == [
        api.GetOneReg(0, 0, virtual), api.GetOneReg(0, 1, virtual), api.GetOneReg(0, 1, physical),
        api.SetOneReg(0, 1, virtual, 2000 + 24), api.SetOneReg(0, 0, virtual, 1000 + 24),
        api.SetOneReg(0, 1, physical, 2999),
    ]  # fmt: skip


def test_one_offset_is_the_vm_s():
    asked = played(
        [
            "vmm = 'read-clock'\nclock = 'counter'\nas = 'now'",
            "vmm = 'set-counter-offset'\nvalue = '$now - 1 s'",
            "vmm = 'set-counter-offset'\nvalue = 5\nreserved = 1",
        ]
    )
    assert asked[1:] == [api.SetCounterOffset(0, 2**64 + 11_000 - HZ), api.SetCounterOffset(0, 5, 1)]


@pytest.mark.parametrize("reg", arm64.TIMER_REGS)
def test_any_register_of_the_timers(reg):
    asked = played([f"vmm = 'get-reg'\nreg = '{reg}'\nvcpu = 0\nas = 'r'",
                    f"vmm = 'set-reg'\nreg = '{reg}'\nvcpu = 1\nvalue = '$r + 1 s'"])  # fmt: skip
    id_ = arm64.TIMER_REGS[reg]
    assert asked == [api.GetOneReg(0, 0, id_), api.SetOneReg(0, 1, id_, 1000 + HZ)]


def test_nanoseconds_become_ticks_once():
    """At 24 MHz a tick is 41.67 ns: 30 ns twice is one tick, not none."""
    asked = played(["vmm = 'read-clock'\nclock = 'realtime'\nas = 'w'",
                    "vmm = 'set-counter-offset'\nvalue = '$w - 10_970 ns + 30 ns'"])  # fmt: skip
    assert asked[1] == api.SetCounterOffset(0, 1)


def test_the_attributes_of_2021():
    asked = played(
        [
            "vmm = 'get-timer-offset'\nvcpu = 0\nas = 'o'",
            "vmm = 'set-timer-offset'\nvcpu = 1\nvalue = '$o + 1'",
            "vmm = 'set-timer-offset'\nvcpu = 1\ntimer = 'physical'\nvalue = -1",
        ]
    )
    assert asked == [
        api.GetVcpuAttr(0, 0, 1, 2), api.SetVcpuAttr(0, 1, 1, 2, 1001), api.SetVcpuAttr(0, 1, 1, 3, 2**64 - 1),
    ]  # fmt: skip


def test_reset_irqchip_preemption():
    asked = played(["vmm = 'init'\nvcpu = 1", "vmm = 'create-irqchip'", "vmm = 'start'\nvcpu = 1",
                    "vmm = 'preempt'\nvalue = '3 ms'"])  # fmt: skip
    assert asked == [api.VcpuInit(0, 1), api.CreateIrqchip(0), api.Start(0, 1), api.Preempt(0, 1, 3_000_000)]


def test_what_the_guest_reads_can_be_used():
    asked = played(
        [
            "guest = 'read'\nvcpu = 1\nas = 'r'",
            "guest = 'write-sysreg'\nvcpu = 1\nreg = 'CNTV_CVAL_EL0'\nvalue = '$r + 1 s'",
            "vmm = 'set-counter'\ntimer = 'physical'\nvcpu = 1\nvalue = '$r.cntpct'",
            "guest = 'read-sysreg'\nvcpu = 0\nreg = 'CNTV_CTL_EL0'\nas = 'ctl'",
            "guest = 'hvc'\nvcpu = 0\nx0 = 0x86000001\nx1 = 1\nas = 'ptp'",
            "vmm = 'set-counter-offset'\nvalue = '$ctl + $ptp + $ptp.x3'",
            "guest = 'enter-l2'\nvcpu = 0\nvalue = -5",
            "guest = 'exit-l2'\nvcpu = 0",
        ]
    )
    assert [op.actions for op in asked if isinstance(op, api.Run)] == [
        (api.ReadCounters(),), (api.WriteSysreg("CNTV_CVAL_EL0", 123 + HZ),), (api.ReadSysreg("CNTV_CTL_EL0"),),
        (api.Hvc(0x86000001, 1),), (api.EnterL2(2**64 - 5),), (api.ExitL2(),),
    ]  # fmt: skip
    assert asked[2] == api.SetOneReg(0, 1, arm64.KVM_REG_ARM_PTIMER_CNT, 456)
    assert asked[5] == api.SetCounterOffset(0, 77 + 7 + 10)


def test_a_vcpu_that_the_kernel_refused_is_acted_on_no_more():
    asked = played(["vmm = 'create-vcpu'", "vmm = 'run'", "vmm = 'run'\nvcpu = 2"], "CreateVcpu")
    assert asked == [
        api.CreateVcpu(0),
        api.Note("refused", "note", (("errno", "EBUSY"), ("op", "CreateVcpu"))),
        api.Run(0, 0), api.Run(0, 1),
        api.Note("left out", "note", (("missing", "vCPU 2"), ("why", "does not exist"))),
    ]  # fmt: skip


def test_a_sleep_is_s2idle():
    assert played(["host = 'sleep'\nvalue = '1 h'"]) == [api.HostSleep(3600 * 10**9, "running", "s2idle")]
