"""The tracepoints' texts, character by character (arch/arm64/kvm/trace_arm.h), and which come when."""

from __future__ import annotations

import re

import pytest
from tests.kvm.model.arm64.bench import HZ, Bench, S, vm_with

from guestclock.kvm.api import Host, ReadSysreg, WriteSysreg
from guestclock.kvm.model import names
from guestclock.kvm.model.arm64.tracepoints import TRACEPOINTS
from guestclock.machine import Arm64Spec

KERNELS = [name for name in names("arm64") if not name.startswith("+")]
WITH_PHYSICAL = ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64"]
UP = 1_000 * HZ

# What the kernel's printf formats can give.
TEXTS = {
    "kvm_timer_update_irq": r"VCPU: \d+, IRQ \d+, level [01]",
    "kvm_get_timer_map": r"VCPU: \d+, dv: \d, dp: (-1|\d),( ev: (-1|\d),)? ep: (-1|\d)",
    "kvm_timer_save_state": r"   CTL: 0x0*[0-9a-f]+ CVAL: +0x[0-9a-f]+ arch_timer_ctx_index: [0-3]",
    "kvm_timer_restore_state": r"CTL: 0x0*[0-9a-f]+ CVAL: +0x[0-9a-f]+ arch_timer_ctx_index: [0-3]",
    "kvm_timer_hrtimer_expire": r"arch_timer_ctx_index: [0-3]",
    "kvm_timer_emulate": r"arch_timer_ctx_index: [0-3] \(should_fire: [01]\)",
}


async def eventful(host: Host) -> None:
    vm = await vm_with(host, 2)
    for vcpu in vm.vcpus:
        await vcpu.run(
            WriteSysreg("CNTP_TVAL_EL0", 1_000), WriteSysreg("CNTP_CTL_EL0", 1), WriteSysreg("CNTV_TVAL_EL0", 5)
        )
        await vcpu.start()
    await host.wait(S)
    for vcpu in vm.vcpus:
        await vcpu.kick()


def test_the_list_is_complete():
    assert set(TEXTS) == set(TRACEPOINTS)


@pytest.mark.parametrize("vhe", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_text_is_one_of_the_kernels(kernel, vhe):
    bench = Bench(kernel, Arm64Spec(vhe=vhe))
    bench.run(eventful)
    seen = {e.name for e in bench.trace.of("tracepoint")}
    emulated = {"kvm_timer_hrtimer_expire", "kvm_timer_emulate"}
    assert seen == set(TRACEPOINTS) - (emulated if vhe else set())
    for event in bench.trace.of("tracepoint"):
        assert re.fullmatch(TEXTS[event.name], event.data["text"]), event.data["text"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_run_of_a_vcpu_in_full(kernel):
    bench = Bench(kernel)

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        bench.trace.events.clear()
        await vm.vcpus[0].run(
            WriteSysreg("CNTV_CVAL_EL0", 0x1234),
            WriteSysreg("CNTV_CTL_EL0", 1),
            WriteSysreg("CNTP_CVAL_EL0", 2**64 - 1),
        )

    bench.run(recipe)
    ev = " ev: -1," if kernel in WITH_PHYSICAL else ""
    assert [e.data["text"] for e in bench.trace.of("tracepoint")] == [
        f"VCPU: 0, dv: 1, dp: 0,{ev} ep: -1",
        "VCPU: 0, IRQ 27, level 0",
        "VCPU: 0, IRQ 30, level 0",
        "CTL: 0x000000 CVAL:              0x0 arch_timer_ctx_index: 1",
        "CTL: 0x000000 CVAL:              0x0 arch_timer_ctx_index: 0",
        "VCPU: 0, IRQ 27, level 0",
        f"VCPU: 0, dv: 1, dp: 0,{ev} ep: -1",
        "   CTL: 0x000001 CVAL:           0x1234 arch_timer_ctx_index: 1",
        "   CTL: 0x000000 CVAL: 0xffffffffffffffff arch_timer_ctx_index: 0",
    ]


def test_fields_are_there_beside_the_text():
    bench = Bench(spec=Arm64Spec(vhe=False))
    bench.run(eventful)
    for name, fields in {
        "kvm_timer_update_irq": ["vcpu_id", "irq", "level"],
        "kvm_get_timer_map": ["vcpu_id", "direct_vtimer", "direct_ptimer", "emul_vtimer", "emul_ptimer"],
        "kvm_timer_save_state": ["ctl", "cval", "timer_idx"],
        "kvm_timer_restore_state": ["ctl", "cval", "timer_idx"],
        "kvm_timer_hrtimer_expire": ["timer_idx"],
        "kvm_timer_emulate": ["timer_idx", "should_fire"],
    }.items():
        for event in bench.tracepoints(name):
            assert [*event.data] == [*fields, "text"]
            assert event.vcpu in (0, 1)


def test_save_shows_istatus_and_restore_what_userspace_set():
    bench = Bench()

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.create_irqchip()
        (vcpu,) = vm.vcpus
        await vcpu.run(WriteSysreg("CNTV_CVAL_EL0", 1), WriteSysreg("CNTV_CTL_EL0", 1))
        await host.wait(S)
        await vcpu.run()
        await vcpu.run()

    bench.run(recipe)
    saved, restored = (
        [e.data["ctl"] for e in bench.tracepoints(name) if e.data["timer_idx"] == 1]
        for name in ("kvm_timer_save_state", "kvm_timer_restore_state")
    )
    assert saved == [1, 5, 5]
    assert restored == [0, 1, 5]


def test_without_an_irqchip_kvm_run_returns_for_a_timers_output_and_comes_back():
    bench = Bench()

    async def recipe(host: Host) -> list[bool]:
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.run(WriteSysreg("CNTV_CVAL_EL0", 1), WriteSysreg("CNTV_CTL_EL0", 1))
        told = [bench.vcpu(0).vtimer_level]
        await host.wait(S)
        await vcpu.run()
        told.append(bench.vcpu(0).vtimer_level)
        await vcpu.run(WriteSysreg("CNTV_CTL_EL0", 3))
        return [*told, bench.vcpu(0).vtimer_level]

    assert bench.run(recipe) == [False, True, False]
    loads = [e for e in bench.tracepoints("kvm_timer_restore_state") if e.data["timer_idx"] == 1]
    assert len(loads) == 1 + 2 + 2, "the output rises in the second one and falls in the third"


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_saved_for_an_access_that_does_not_trap(kernel):
    bench = Bench(kernel)

    async def recipe(host: Host) -> None:
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.run(*[ReadSysreg("CNTP_CVAL_EL0")] * 3)

    bench.run(recipe)
    assert [e.data["timer_idx"] for e in bench.tracepoints("kvm_timer_save_state")] == [1, 0], "the put at the end"


@pytest.mark.parametrize(("kernel", "puts"), [("linux-6.1-arm64", 2), ("linux-6.3-arm64", 1)])
def test_on_nvhe_the_virtual_timer_is_put_for_it_too_until_6_2(kernel, puts):
    bench = Bench(kernel, Arm64Spec(vhe=False))

    async def recipe(host: Host) -> None:
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.run(ReadSysreg("CNTP_CVAL_EL0"))

    bench.run(recipe)
    assert [e.data["timer_idx"] for e in bench.tracepoints("kvm_timer_save_state")] == [1] * puts


def test_a_trapped_physical_timer_of_vhe_is_saved_and_restored():
    bench = Bench()

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.set_counter_offset(7)
        await vm.vcpus[0].run(ReadSysreg("CNTP_CVAL_EL0"))

    bench.run(recipe)
    saved, restored = (
        [e.data["timer_idx"] for e in bench.tracepoints(name)]
        for name in ("kvm_timer_save_state", "kvm_timer_restore_state")
    )
    assert saved == [0, 1, 0]
    assert restored == [1, 0, 0]
