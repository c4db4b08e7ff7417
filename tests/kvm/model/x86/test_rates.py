"""KVM_SET_TSC_KHZ: what each refusal leaves behind, and what a new rate does to a guest (kvm-x86.md 3.2, 7.9, 7.12)."""

from __future__ import annotations

import pytest
from tests.kvm.model.x86.bench import Bench, S, vm_with

from guestclock.arith import kvm_get_time_scale
from guestclock.kvm.api import GetTscKhz, Host, KvmError, SetTscKhz
from guestclock.kvm.model.x86 import KernelHang
from guestclock.machine import HostSpec

KHZ = 2_596_122
VMX = HostSpec(tsc_scaling="vmx")
SVM = HostSpec(tsc_scaling="svm")


async def ask(host: Host, khz: int) -> tuple[str, int]:
    vm = await host.create_vm()
    vcpu = await vm.create_vcpu()
    errno = ""
    try:
        await vcpu.set_tsc_khz(khz)
    except KvmError as error:
        errno = error.errno
    return errno, await vcpu.get_tsc_khz()


@pytest.mark.parametrize(
    ("spec", "khz", "errno", "kept"),
    [
        (HostSpec(), 2_595_471, "EINVAL", 2_595_471),  # refused, and yet it is the rate now
        (HostSpec(), 2_595_472, "", 2_595_472),  # the lowest within 250 ppm
        (HostSpec(), 2_596_771, "", 2_596_771),  # the highest
        (HostSpec(), 2_596_772, "", 2_596_772),  # beyond: catch-up
        (HostSpec(), 0, "", KHZ),
        (HostSpec(), 2**32 + 2_596_200, "", 2_596_200),  # the argument is u32
        (VMX, 2_000_000, "", 2_000_000),
        (VMX, 0x7FFFFFFF, "EINVAL", KHZ),  # too high for the hardware: nothing has changed
        (SVM, KHZ * 255, "", KHZ * 255),
        (SVM, KHZ * 256, "EINVAL", KHZ),
    ],
)
def test_what_is_refused_and_what_it_leaves_behind(spec, khz, errno, kept):
    assert Bench(spec=spec).run(lambda host: ask(host, khz)) == (errno, kept)


def test_a_rate_that_failed_has_left_the_ratio_but_changed_deadlines_and_matching():
    bench = Bench()
    bench.run(lambda host: ask(host, 1_000_000))
    vcpu = bench.vcpu(0)
    assert vcpu.virtual_tsc_khz == 1_000_000
    assert (vcpu.virtual_tsc_mult, vcpu.virtual_tsc_shift) == (0x80000000, 1)
    assert not vcpu.tsc_catchup


def test_catchup_is_never_taken_back():
    bench = Bench()

    async def recipe(host: Host) -> None:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        await vcpu.set_tsc_khz(3_000_000)
        await vcpu.set_tsc_khz(KHZ)

    bench.run(recipe)
    assert bench.vcpu(0).tsc_catchup
    assert bench.vcpu(0).tsc_always_catchup


def test_a_new_rate_makes_the_tsc_jump_and_leaves_the_page_stale():
    bench = Bench(spec=VMX)

    async def recipe(host: Host) -> tuple[int, int, int]:
        vm = await vm_with(host, 1)
        vcpu = vm.vcpus[0]
        await vcpu.run()
        await vcpu.run()
        before = await vcpu.peek()
        await vcpu.set_tsc_khz(KHZ * 2)
        await vcpu.run()
        after = await vcpu.peek()
        return before.host_tsc[0], after.tsc - before.tsc, after.page.version - before.page.version

    host_tsc, jump, written = bench.run(recipe)
    assert jump == host_tsc  # (2 - 1) * host TSC: the offset stays
    assert written == 0


def test_within_the_tolerance_the_page_keeps_the_hosts_rate():
    bench = Bench(spec=VMX)

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].set_tsc_khz(2_596_771)
        await vm.vcpus[0].run()

    bench.run(recipe)
    assert bench.vcpu(0).pv_time.tsc_to_system_mul == 0xC5379CA5
    assert bench.vcpu(0).l1_tsc_scaling_ratio == 1 << 48


async def vm_rate(host: Host) -> list[object]:
    vm = await host.create_vm()
    answers: list[object] = []
    for step in (SetTscKhz(0, 2_596_500), "vcpu", SetTscKhz(0, 2_596_000), "vcpu", GetTscKhz(0)):
        try:
            answers.append(await (await vm.create_vcpu()).get_tsc_khz() if step == "vcpu" else await step)
        except KvmError as error:
            answers.append(error.errno)
    return [*answers, await vm.vcpus[0].get_tsc_khz()]


def test_the_vms_rate_is_for_vcpus_to_come_and_fixed_from_6_17_once_there_is_one():
    assert Bench("linux-6.12").run(vm_rate) == [None, 2_596_500, None, 2_596_000, 2_596_000, 2_596_500]
    assert Bench("linux-6.17").run(vm_rate) == [None, 2_596_500, "EINVAL", 2_596_500, 2_596_500, 2_596_500]
    assert Bench("linux-5.16").run(vm_rate) == ["ENOTTY", KHZ, "ENOTTY", KHZ, "ENOTTY", KHZ]


async def one_khz(host: Host, *, updated_before: bool) -> tuple[int, int]:
    vm = await vm_with(host, 1)
    vcpu = vm.vcpus[0]
    if updated_before:
        await vcpu.run()
    await vcpu.set_tsc_khz(1)
    await vcpu.kvmclock_ctrl()
    await vcpu.run()
    page = (await vcpu.peek()).page
    return page.tsc_to_system_mul, page.tsc_shift


def test_1_khz_hangs_the_host_until_6_15_once_a_page_was_scaled():
    with pytest.raises(KernelHang, match="never ends for a page of 0 kHz"):
        Bench("linux-6.12", spec=VMX).run(lambda host: one_khz(host, updated_before=True))
    # at the first update hw_tsc_khz is 0 already: no scale is computed, and the page has none
    assert Bench("linux-6.12", spec=VMX).run(lambda host: one_khz(host, updated_before=False)) == (0, 0)
    for before in (True, False):
        scale = Bench("linux-6.17", spec=VMX).run(lambda host, before=before: one_khz(host, updated_before=before))
        assert scale == kvm_get_time_scale(S, 1000)[::-1]  # as for a page of 1 kHz
