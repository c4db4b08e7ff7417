"""L2's TSC: offsets and ratios as KVM composes them (kvm-x86.md 2.5, 9.2)."""

from __future__ import annotations

import pytest
from tests.kvm.model.x86.bench import TSC, Bench, S

from guestclock.errors import UserError
from guestclock.kvm.api import EnterL2, ExitL2, Host, Rdmsr, ReadClocks, Wrmsr
from guestclock.kvm.model.x86.nested import offset_after_failed_entry
from guestclock.machine import HostSpec

VMX, SVM = HostSpec(tsc_scaling="vmx"), HostSpec(tsc_scaling="svm")
ONE = 1 << 48
TSC_RATIO = 0xC0000104


def s64(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


@pytest.mark.parametrize(
    ("o1", "o2", "r2", "composed"),
    [
        (-(10**12), 12345, 4 * ONE, 0xFFFFFC5CAD6BF039),
        (-(10**12), 12345, ONE // 3, (-333333333333 + 12345) % 2**64),
        (-(10**12), 12345, ONE, (-(10**12) + 12345) % 2**64),
        (-1, 0, ONE // 2, 0),  # toward zero, not down
        (7, -9, ONE // 2, -6 % 2**64),
    ],
)
def test_the_offset_l2_runs_with(o1, o2, r2, composed):
    bench = Bench(spec=VMX)

    async def recipe(host: Host) -> int:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        await vcpu.set_tsc_offset(o1)
        await vcpu.run(EnterL2(o2, r2))
        return bench.vcpu(0).tsc_offset

    assert bench.run(recipe) == composed


def test_the_vector_of_the_reference():
    assert s64(-333333333333 + 12345) == -333333320988


async def l2_reads(host: Host, guest_khz: int, o2: int, r2: int | None) -> tuple[int, int, int]:
    vm = await host.create_vm()
    await vm.set_tsc_khz(guest_khz)
    vcpu = await vm.create_vcpu()
    await vcpu.set_tsc_offset(1_000_000)
    in_l1, _, in_l2, msr, _, back = await vcpu.run(
        ReadClocks(), EnterL2(o2, r2), ReadClocks(), Rdmsr(TSC), ExitL2(), ReadClocks()
    )
    assert in_l2.page is None
    assert in_l2.tsc == msr
    assert back.tsc == in_l1.tsc  # no time passes in this bench
    return in_l1.host_tsc[0], in_l1.tsc, in_l2.tsc


@pytest.mark.parametrize(("spec", "bits"), [(VMX, 48), (SVM, 32)])
def test_l2s_tsc_is_truncated_once_not_twice(spec, bits):
    one = 1 << bits
    r2 = one * 7 // 3
    host_tsc, l1, l2 = Bench(spec=spec).run(lambda host: l2_reads(host, 2_000_000, -500, r2))
    r1 = one * 2_000_000 // 2_596_122
    assert l1 == (host_tsc * r1 >> bits) + 1_000_000
    assert l2 == (host_tsc * (r1 * r2 >> bits) >> bits) + (1_000_000 * r2 >> bits) - 500
    two_stages = (l1 * r2 >> bits) - 500
    assert -4 < two_stages - l2 <= host_tsc // one + 2  # L1's floor, stretched by 7/3, counts the other way
    if bits == 32:
        assert two_stages - l2 > 300  # the ratio's error times the host's TSC


def test_an_offset_written_while_l2_runs_is_l1s_and_l2_follows():
    async def recipe(host: Host) -> list[int]:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        await vcpu.set_tsc_offset(0)
        _, before = await vcpu.run(EnterL2(1000, 2 * ONE), ReadClocks())
        await vcpu.set_tsc_offset(50)
        by_host = await vcpu.get_msr(TSC)
        after, _, l1 = await vcpu.run(ReadClocks(), ExitL2(), ReadClocks())
        return [after.tsc - before.tsc, l1.tsc - l1.host_tsc[0], by_host - l1.tsc]

    assert Bench(spec=VMX).run(recipe) == [100, 50, 0]


def test_a_rate_written_while_l2_runs_recomposes_the_ratio():
    bench = Bench(spec=VMX)

    async def recipe(host: Host) -> None:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        await vcpu.run(EnterL2(0, ONE // 2))
        await vcpu.set_tsc_khz(2 * 2_596_122)

    bench.run(recipe)
    assert (bench.vcpu(0).l1_tsc_scaling_ratio, bench.vcpu(0).tsc_scaling_ratio) == (2 * ONE, ONE)


def test_a_tsc_written_by_l2_is_l1s():
    async def recipe(host: Host) -> list[int]:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        _, _, l2, _, l1 = await vcpu.run(EnterL2(1000), Wrmsr(TSC, 5 * S), ReadClocks(), ExitL2(), ReadClocks())
        return [l1.tsc, l2.tsc]

    assert Bench(spec=VMX).run(recipe) == [5 * S, 5 * S + 1000]


def test_after_a_failed_vm_entry_kvm_has_a_wrong_offset_only_if_l1_scales():
    assert offset_after_failed_entry(12_345, 777, ONE, 48) == 12_345
    assert offset_after_failed_entry(12_345, 777, 4 * ONE, 48) == 4 * 12_345
    assert s64(offset_after_failed_entry(-(10**12) % 2**64, 5, ONE // 3, 48)) == -333333333333


def test_on_svm_the_ratio_is_that_of_l1s_msr():
    bench = Bench(spec=SVM)

    async def recipe(host: Host) -> list[object]:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        answers = await vcpu.run(Wrmsr(TSC_RATIO, 3 << 31), Wrmsr(TSC_RATIO, 1 << 40), Rdmsr(TSC_RATIO), EnterL2(0))
        return [*answers, bench.vcpu(0).tsc_scaling_ratio]

    assert bench.run(recipe) == [None, "#GP", 3 << 31, None, 3 << 31]

    async def on_vmx(host: Host) -> list[object]:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        return await vcpu.run(Wrmsr(TSC_RATIO, 1 << 32))

    assert Bench(spec=VMX).run(on_vmx) == ["#GP"]


def test_mistakes():
    async def twice(host: Host) -> None:
        await (await (await host.create_vm()).create_vcpu()).run(EnterL2(0), EnterL2(0))

    async def none(host: Host) -> None:
        await (await (await host.create_vm()).create_vcpu()).run(ExitL2())

    async def ratio(host: Host) -> None:
        await (await (await host.create_vm()).create_vcpu()).run(EnterL2(0, ONE))

    for recipe, what in ((twice, "runs an L2 already"), (none, "runs no L2"), (ratio, "offers no TSC scaling")):
        with pytest.raises(UserError, match=what):
            Bench().run(recipe)
