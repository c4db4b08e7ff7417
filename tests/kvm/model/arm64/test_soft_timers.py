"""Emulated timers: when their hrtimers fire, what those find, and when there is none. nVHE's physical timer.

Reference: kvm-arm64.md 2.4, 2.5, 6.3 (16).
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.kvm.model.arm64.bench import HZ, Bench, S, vm_with

from guestclock.abi.arm64 import KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_PTIMER_CVAL
from guestclock.errors import UserError
from guestclock.kvm.api import Host, ReadSysreg, Vcpu, Wait, WriteSysreg
from guestclock.kvm.model import names
from guestclock.kvm.model.arm64 import KvmOptions
from guestclock.kvm.model.arm64.due import armed, forgotten, interrupts_at, output
from guestclock.machine import Arm64Spec
from guestclock.sim import cp

KERNELS = [name for name in names("arm64") if not name.startswith("+")]
FORGETFUL = ["linux-5.10-arm64", "linux-6.1-arm64", "linux-6.3-arm64", "linux-6.4-arm64"]
NVHE = Arm64Spec(vhe=False)
UP = 1_000 * HZ
LATENCY_NS = 1_000
PS_PER_NS = 1_000


def emulated(kernel: str = "linux-6.12-arm64", hz: int = HZ, **more: Any) -> Bench:
    return Bench(kernel, Arm64Spec(vhe=False, counter_hz=hz), **more)


async def arm(vcpu: Vcpu, cval: int, ctl: int = 1) -> None:
    """The guest arms its physical timer, and its vCPU goes on running."""
    await vcpu.run(WriteSysreg("CNTP_CVAL_EL0", cval), WriteSysreg("CNTP_CTL_EL0", ctl))
    await started(vcpu)


async def started(vcpu: Vcpu) -> None:
    """Its thread has come into the guest."""
    await vcpu.start()
    await Wait(0)


# ---- when it is due


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_hrtimer_fires_when_the_guests_counter_is_there(kernel):
    bench = emulated(kernel)

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await arm(vcpu, UP + 1_000)
        timer = bench.ptimer(0)
        got = [timer.soft_armed, timer.soft_fires_ps // PS_PER_NS, interrupts_at(timer)]
        await host.wait(16_000 + LATENCY_NS - 1)
        await vcpu.kick()
        early = timer.level
        await vcpu.start()
        await host.wait(1)
        await vcpu.kick()
        return got, early, timer.level, timer.soft_armed

    # The callback is LATENCY_NS late, and finds the counter by so much further.
    assert bench.run(recipe) == ([True, 16_000, UP + 1_000 + 62], False, True, False)


@pytest.mark.parametrize("kernel", KERNELS)
def test_its_ns_are_those_of_the_conversion(kernel):
    """24 MHz: 1000 ticks are 41666.666... ns, and 41666 by mult and shift; the next time the rest makes it 41667."""
    bench = emulated(kernel, 24_000_000)

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await arm(vcpu, 1_000 * 24_000_000 + 1_000)
        return bench.ptimer(0).soft_fires_ps // PS_PER_NS

    once, twice = 1_000 * 699050667 >> 24, 2_000 * 699050667 >> 24
    assert once == 41_666
    assert bench.run(recipe) == twice - once == 41_667, "the second conversion: at the guest's write, and at the load"


def test_the_guest_is_thrown_out_by_it_and_comes_back():
    """Between two of the guest's steps KVM raises the interrupt; the guest sees ISTATUS."""
    bench = emulated(step_ns=1_000)

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.create_irqchip()
        (vcpu,) = vm.vcpus
        got = await vcpu.run(
            WriteSysreg("CNTP_TVAL_EL0", 500), WriteSysreg("CNTP_CTL_EL0", 1), *[ReadSysreg("CNTP_CTL_EL0")] * 10
        )
        return got[2:], bench.ptimer(0).level

    shown, level = bench.run(recipe)
    assert sorted(shown) == shown
    assert set(shown) == {1, 5}
    assert level
    (raised,) = [e for e in bench.tracepoints("kvm_timer_update_irq") if e.data["level"]]
    (expired,) = bench.tracepoints("kvm_timer_hrtimer_expire")
    assert raised.start_ps == expired.start_ps


# ---- far deadlines


def far(hz: int, seconds: int, **options: Any) -> Any:
    """The physical timer is armed so far ahead. Answers when its hrtimer was to fire, ns, and the bench at the end."""
    bench = emulated(hz=hz, options=KvmOptions(**options))

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.create_irqchip()
        (vcpu,) = vm.vcpus
        await arm(vcpu, 1_000 * hz + seconds * hz)
        first = bench.ptimer(0).soft_fires_ps // PS_PER_NS
        told = interrupts_at(bench.ptimer(0))
        await host.wait((seconds + 1) * S)
        await vcpu.kick()
        return first, told

    return (*bench.run(recipe), bench)


@pytest.mark.parametrize(
    ("hz", "horizon_ns"), [(62_500_000, 2**41), (24_000_000, 2**40), (1_000_000_000, 2**41), (19_200_000, 2**40)]
)
def test_beyond_2_to_the_64_the_hrtimer_is_early_and_is_started_again(hz, horizon_ns):
    """The product wraps at 2^(64-shift) ns, whatever the rate: 1099.5 or 2199 s. The interrupt is in time."""
    seconds = 2_500
    first, told, bench = far(hz, seconds)
    mult, shift = bench.kvm.host.mult, bench.kvm.host.shift
    rounded_ns = seconds * S // (2 * mult) + 1
    assert 2 ** (64 - shift) == horizon_ns
    assert abs(first - seconds * S % horizon_ns) <= rounded_ns
    fired = len(bench.tracepoints("kvm_timer_hrtimer_expire"))
    wraps = seconds * S // horizon_ns
    # Where mult is rounded, what is left after a wrap may be a few ns more than none: then it fires twice.
    assert fired == 1 + wraps if mult & (mult - 1) == 0 else 1 + wraps <= fired <= 1 + 2 * wraps
    (raised,) = [e for e in bench.tracepoints("kvm_timer_update_irq") if e.data["level"]]
    late_ns = raised.start_ps // PS_PER_NS - seconds * S
    assert -rounded_ns <= late_ns <= LATENCY_NS + rounded_ns
    assert 0 <= told - (1_000 + seconds) * hz <= LATENCY_NS * hz // S + 1


def test_within_the_horizon_it_fires_once():
    first, _, bench = far(62_500_000, 2_199)
    assert first == 2_199 * S
    assert len(bench.tracepoints("kvm_timer_hrtimer_expire")) == 1


def test_read_in_the_very_tick_a_far_deadline_is_taken_for_due():
    """A distance of 2^37 ticks is 0 ns at 62.5 MHz. Only a callback without any latency ever finds that."""
    _, told, bench = far(62_500_000, 2_500, hrtimer_latency_ns=0)
    assert told == UP + 2_500 * HZ - 2**37
    (raised,) = [e for e in bench.tracepoints("kvm_timer_update_irq") if e.data["level"]]
    assert raised.start_ps // PS_PER_NS == 2_500 * S - 2**41


# ---- lost and kept


def raised_ns(bench: Bench) -> list[int]:
    """When KVM raised the physical timer's output, ns."""
    events = bench.tracepoints("kvm_timer_update_irq")
    return [e.start_ps // PS_PER_NS for e in events if e.data["level"] and e.data["irq"] == 30]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_due_timer_that_its_guest_moves_into_the_future_is_forgotten_until_6_12_13(kernel):
    """b450dcce93bc: a change of the output was all that timer_emulate() saw to."""
    bench = emulated(kernel, step_ns=1_000)
    facts = []

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.create_irqchip()
        (vcpu,) = vm.vcpus
        await vcpu.run(
            WriteSysreg("CNTP_CVAL_EL0", 1), WriteSysreg("CNTP_CTL_EL0", 1), WriteSysreg("CNTP_TVAL_EL0", 1_250),
            *[ReadSysreg("CNTVCT_EL0")] * 50,
        )  # fmt: skip

    async def watch() -> None:
        while True:
            if bench.kvm.vms and bench.vm.vcpus and bench.vcpu(0).in_guest:
                timer = bench.ptimer(0)
                if bench.ptimer(0).cval > UP and not output(timer):
                    facts.append((forgotten(timer), armed(timer), interrupts_at(timer) is not None))
            await cp("watches", delay_ps=500_000)

    bench.scheduler.spawn("watch", watch(), daemon=True)
    bench.run(recipe)
    assert len(facts) > 20
    if kernel in FORGETFUL:
        assert set(facts) == {(True, True, False)}
        assert len(raised_ns(bench)) == 1, "the first time, when it was due at once"
    else:
        assert set(facts) == {(False, True, True)}
        _, second = raised_ns(bench)
        due_ns = (bench.ptimer(0).cval - UP) * 16
        assert 0 <= second - due_ns <= LATENCY_NS + 1_000 + 16


@pytest.mark.parametrize("kernel", KERNELS[3:])
def test_so_is_one_that_userspace_moves(kernel):
    """A snapshot that is put back into the VM that runs already: due before, the future in what was saved."""
    bench = emulated(kernel)

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.create_irqchip()
        (vcpu,) = vm.vcpus
        await vcpu.run(WriteSysreg("CNTP_CVAL_EL0", 1), WriteSysreg("CNTP_CTL_EL0", 1))
        await vcpu.set_one_reg(KVM_REG_ARM_PTIMER_CVAL, UP + HZ)
        await vcpu.start()
        await host.wait(S // 2)
        return forgotten(bench.ptimer(0))

    assert bench.run(recipe) == (kernel in FORGETFUL)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_timer_that_was_never_due_is_forgotten_by_nobody(kernel):
    bench = emulated(kernel)

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await arm(vcpu, UP + HZ)
        await host.wait(S // 2)
        return forgotten(bench.ptimer(0)), interrupts_at(bench.ptimer(0))

    assert bench.run(recipe) == (False, UP + HZ + 62)


def test_a_disabled_or_masked_timer_has_no_hrtimer():
    for ctl in (0, 2, 3):
        bench = emulated()

        async def recipe(host: Host, ctl: int = ctl, bench: Bench = bench):
            (vcpu,) = (await vm_with(host, 1)).vcpus
            await arm(vcpu, UP + 1_000, ctl)
            return bench.ptimer(0).soft_armed, armed(bench.ptimer(0))

        assert bench.run(recipe) == (False, False), ctl


def test_put_cancels_it_and_load_starts_it_anew():
    bench = emulated()

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await arm(vcpu, UP + HZ)
        await vcpu.kick()
        got = [bench.ptimer(0).soft_armed]
        await host.wait(S // 2)
        await started(vcpu)
        return [*got, bench.ptimer(0).soft_armed, bench.ptimer(0).soft_fires_ps // PS_PER_NS]

    assert bench.run(recipe) == [False, True, S]


# ---- an offset that is changed under it


def moved(offset_moves: int) -> tuple[int, int, bool]:
    """A guest waits for its timer, 1 s ahead; after half a second its physical counter is set on by another vCPU.

    Answers when the hrtimer is to fire then, ns; when the interrupt comes, ns; and whether the timer was due long ago.
    """
    bench = emulated()

    async def recipe(host: Host):
        vm = await vm_with(host, 2)
        await vm.create_irqchip()
        a, b = vm.vcpus
        await arm(b, UP + HZ)
        await host.wait(S // 2)
        await a.set_one_reg(KVM_REG_ARM_PTIMER_CNT, UP + HZ // 2 + offset_moves)
        fires = bench.ptimer(1).soft_fires_ps // PS_PER_NS
        due = output(bench.ptimer(1))
        await host.wait(10 * S)
        await b.kick()
        return fires, due

    fires, due = bench.run(recipe)
    raised = [e.start_ps // PS_PER_NS for e in bench.tracepoints("kvm_timer_update_irq") if e.data["level"]]
    return fires, raised[0], due


def test_a_counter_that_is_set_forward_makes_the_timer_late():
    """Nobody tells the hrtimer: it fires when it was told, though the guest's counter was there half a second ago."""
    assert moved(HZ) == (S, S + LATENCY_NS, True)


def test_a_counter_that_is_set_back_does_not_make_it_early():
    fires, raised, due = moved(-HZ)
    assert (fires, due) == (S, False)
    # The callback finds it too early by a second, less its own lateness, and adds that to when it was due.
    assert 2 * S <= raised <= 2 * S + LATENCY_NS


def test_a_callback_that_was_due_has_happened_with_the_offset_of_then():
    """Nobody has looked at the timer since; then its counter is set back. The interrupt was raised all the same."""
    bench = emulated()

    async def recipe(host: Host):
        vm = await vm_with(host, 2)
        await vm.create_irqchip()
        a, b = vm.vcpus
        await arm(b, UP + HZ)
        await host.wait(2 * S)
        await a.set_one_reg(KVM_REG_ARM_PTIMER_CNT, UP)
        return bench.ptimer(1).level, bench.ptimer(1).soft_armed

    assert bench.run(recipe) == (True, False)
    assert raised_ns(bench) == [S + LATENCY_NS]


@pytest.mark.parametrize("kernel", KERNELS)
def test_at_the_very_tick_of_cval_a_timer_is_due(kernel):
    bench = emulated(kernel)

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.create_irqchip()
        (vcpu,) = vm.vcpus
        await vcpu.run(WriteSysreg("CNTP_CVAL_EL0", UP + 100), WriteSysreg("CNTP_CTL_EL0", 1))
        for ns in (99 * 16, 16):
            await host.wait(ns)
            await vcpu.run()

    bench.run(recipe)
    assert [e.data["should_fire"] for e in bench.tracepoints("kvm_timer_emulate")][-2:] == [0, 1]


# ---- the hardware's


def test_facts_of_a_timer_that_the_hardware_has():
    bench = Bench()

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.set_counter_offset(UP)
        (vcpu,) = vm.vcpus
        await vcpu.run(
            WriteSysreg("CNTV_CVAL_EL0", HZ), WriteSysreg("CNTV_CTL_EL0", 1),
            WriteSysreg("CNTP_CVAL_EL0", 2 * HZ), WriteSysreg("CNTP_CTL_EL0", 1),
        )  # fmt: skip
        await started(vcpu)
        timers = bench.vtimer(0), bench.ptimer(0)
        got = [[interrupts_at(t), output(t), armed(t), forgotten(t)] for t in timers]
        await host.wait(S)
        return got, [output(t) for t in timers]

    in_future = [False, True, False]
    assert bench.run(recipe) == ([[UP + HZ, *in_future], [UP + 2 * HZ, *in_future]], [True, False])


def test_a_stopped_vcpus_timer_is_nobodys_until_it_is_loaded():
    bench = Bench()

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.run(WriteSysreg("CNTV_CVAL_EL0", HZ), WriteSysreg("CNTV_CTL_EL0", 1))
        timer = bench.vtimer(0)
        got = [interrupts_at(timer), forgotten(timer), armed(timer), output(timer)]
        await host.wait(S)
        return got, output(timer)

    assert bench.run(recipe) == ([None, False, True, False], True)


def test_a_latency_below_0_is_refused():
    with pytest.raises(UserError, match="hrtimer_latency_ns: -1 ns, expected 0 or more"):
        KvmOptions(hrtimer_latency_ns=-1)
