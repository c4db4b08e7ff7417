"""Questions to a KVM, asked by doing: a recipe over `kvm.api` that ends with what was observed.

Nothing is looked up (a distribution's kernel carries backports, a nested or paravirtual host keeps back half of what it
promises) and nothing is changed outside the VMs made here. It asks a real host, a lab's kernel or a model alike.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from guestclock.abi import ioctl as abi
from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.arith.kernel import s64, u64
from guestclock.kvm.api import ClockReading, Host, KvmError, ReadClocks, Vcpu, Vm, Wrmsr

CAPABILITIES = {
    "ADJUST_CLOCK": abi.KVM_CAP_ADJUST_CLOCK,
    "TSC_CONTROL": abi.KVM_CAP_TSC_CONTROL,
    "VM_TSC_CONTROL": abi.KVM_CAP_VM_TSC_CONTROL,
    "VCPU_ATTRIBUTES": abi.KVM_CAP_VCPU_ATTRIBUTES,
    "XEN_HVM": abi.KVM_CAP_XEN_HVM,
    "HYPERV_TIME": abi.KVM_CAP_HYPERV_TIME,
}

MOVE_CYCLES = 10**12
"""How far a guest's TSC is asked to move. Minutes: no reading takes so long, and no rule takes it for "in sync"."""

DELAYED_UPDATE_NS = 300_000_000
"""Long enough for the page update that kernels until 6.18 make 100 ms after a vCPU's first run (160 ms were seen)."""


@dataclass(frozen=True, slots=True)
class WriteProbe:
    """A write that should move a guest's TSC by `asked` cycles.

    errno: how it was refused, or None. said: by how much KVM says that it moved (None: it does not say). moved: by how
    much RDTSC in the guest moved against the host's, (least, most); None where it was refused.
    """

    asked: int
    errno: str | None
    said: int | None
    moved: tuple[int, int] | None

    @property
    def verdict(self) -> str:
        """honoured, ignored, refused, or astray: it moved, but not by what was asked."""
        if self.moved is None:
            return "refused"
        least, most = self.moved
        if least <= self.asked <= most:
            return "honoured"
        return "ignored" if least <= 0 <= most else "astray"


@dataclass(frozen=True, slots=True)
class Observations:
    """What a KVM did when asked. None: the question could not be put (most need a masterclock to answer by).

    flags_before_run, flags_after_run: of KVM_GET_CLOCK, fresh VM. offset_attribute, tsc_msr: see WriteProbe; the first
    is None where KVM_VCPU_TSC_OFFSET does not exist. vm_khz_before, vm_khz_after: KVM_SET_TSC_KHZ on a VM (the host's
    own rate) before and after its first vCPU, "accepted" or an errno. young_write_matched: a first TSC write within 1 s
    of the creation's counted as in sync. guest_write_unmatches: a TSC write by the guest turned the masterclock off.
    hotplug_resnapshots: a new vCPU gave every page a new snapshot. page_versions: after the first run, after one at
    once, and after one when the delayed update is due.
    """

    capabilities: dict[str, int]
    tsc_khz: int
    flags_before_run: int
    flags_after_run: int
    offset_attribute: WriteProbe | None
    tsc_msr: WriteProbe
    vm_khz_before: str
    vm_khz_after: str
    young_write_matched: bool | None
    guest_write_unmatches: bool | None
    hotplug_resnapshots: bool | None
    page_versions: tuple[int, int, int]

    @property
    def masterclock(self) -> bool:
        return bool(self.flags_after_run & abi.KVM_CLOCK_TSC_STABLE)


async def observe(host: Host) -> Observations:
    """Puts all questions, each to VMs of its own. Takes about half a second of true time."""
    capabilities = {name: await host.check_extension(number) for name, number in CAPABILITIES.items()}
    vm = await _vm(host, 1)
    tsc_khz = await vm.vcpus[0].get_tsc_khz()
    before = (await vm.get_clock()).flags
    await vm.vcpus[0].run()
    after = (await vm.get_clock()).flags
    masterclock = bool(after & abi.KVM_CLOCK_TSC_STABLE)
    return Observations(
        capabilities,
        tsc_khz,
        before,
        after,
        await _offset_attribute(host),
        await _tsc_msr(host),
        await _vm_khz(host, tsc_khz, vcpus=0),
        await _vm_khz(host, tsc_khz, vcpus=1),
        await _young_write_matched(host, tsc_khz) if masterclock else None,
        await _guest_write_unmatches(host) if masterclock else None,
        await _hotplug_resnapshots(host) if masterclock else None,
        await _page_versions(host),
    )


async def _vm(host: Host, vcpus: int) -> Vm:
    vm = await host.create_vm()
    for _ in range(vcpus):
        await (await vm.create_vcpu()).enable_kvmclock()
    return vm


async def _read(vcpu: Vcpu) -> ClockReading:
    """RDTSC in the guest: what KVM says about a TSC is another question."""
    [reading] = await vcpu.run(ReadClocks())
    assert isinstance(reading, ClockReading)
    return reading


def _ahead(reading: ClockReading) -> tuple[int, int]:
    """Guest TSC minus host TSC, (least, most). Both run at one rate: no VM here asks for another."""
    first, last = reading.host_tsc
    return s64(reading.tsc - last), s64(reading.tsc - first)


async def _moved(vcpu: Vcpu, before: ClockReading) -> tuple[int, int]:
    (least, most), (now_least, now_most) = _ahead(before), _ahead(await _read(vcpu))
    return s64(now_least - most), s64(now_most - least)


async def _offset_attribute(host: Host) -> WriteProbe | None:
    vcpu = (await _vm(host, 1)).vcpus[0]
    before = await _read(vcpu)
    try:
        offset = await vcpu.get_tsc_offset()
    except KvmError:
        return None
    try:
        await vcpu.set_tsc_offset(u64(offset + MOVE_CYCLES))
    except KvmError as refusal:
        return WriteProbe(MOVE_CYCLES, refusal.errno, None, None)
    said = s64(await vcpu.get_tsc_offset() - offset)
    return WriteProbe(MOVE_CYCLES, None, said, await _moved(vcpu, before))


async def _tsc_msr(host: Host) -> WriteProbe:
    """The value asked for is where the TSC is, moved; between reading and writing it runs on, which `moved` allows."""
    vcpu = (await _vm(host, 1)).vcpus[0]
    before = await _read(vcpu)
    start = await host.read_clock("tsc")
    now = await vcpu.get_msr(MSR_IA32_TSC)
    try:
        await vcpu.set_msr(MSR_IA32_TSC, u64(now + MOVE_CYCLES))
    except KvmError as refusal:
        return WriteProbe(MOVE_CYCLES, refusal.errno, None, None)
    late = await host.read_clock("tsc") - start
    least, most = await _moved(vcpu, before)
    return WriteProbe(MOVE_CYCLES, None, None, (least, most + late))


async def _vm_khz(host: Host, tsc_khz: int, *, vcpus: int) -> str:
    vm = await _vm(host, vcpus)
    return await _told(vm.set_tsc_khz(tsc_khz))


async def _told(call: Awaitable[Any]) -> str:
    try:
        await call
    except KvmError as refusal:
        return refusal.errno
    return "accepted"


async def _on(vm: Vm) -> bool:
    """Do all TSCs match? KVM_SET_CLOCK takes a new snapshot and decides, without any vCPU having to run."""
    await vm.set_clock(1_000_000_000)
    return bool((await vm.get_clock()).flags & abi.KVM_CLOCK_TSC_STABLE)


async def _young_write_matched(host: Host, tsc_khz: int) -> bool | None:
    vm = await _vm(host, 2)
    if not await _on(vm):
        return None
    if await _told(vm.vcpus[0].set_msr(MSR_IA32_TSC, tsc_khz * 1000 // 4)) != "accepted":
        return None
    return await _on(vm)


async def _guest_write_unmatches(host: Host) -> bool | None:
    vm = await _vm(host, 2)
    if not await _on(vm):
        return None
    now = (await _read(vm.vcpus[0])).tsc
    if await _told(vm.vcpus[0].run(Wrmsr(MSR_IA32_TSC, u64(now + MOVE_CYCLES)))) != "accepted":
        return None
    return not await _on(vm)


async def _hotplug_resnapshots(host: Host) -> bool | None:
    vm = await _vm(host, 1)
    first = vm.vcpus[0]
    before = (await _read(first)).page
    late = await vm.create_vcpu()
    await late.enable_kvmclock()
    await late.run()
    after = (await _read(first)).page
    if before is None or after is None or not before.stable or not after.stable:
        return None
    # With a masterclock a page's timestamp is the snapshot's: it stays as long as the snapshot does.
    return before.tsc_timestamp != after.tsc_timestamp


async def _page_versions(host: Host) -> tuple[int, int, int]:
    vcpu = (await _vm(host, 1)).vcpus[0]
    versions = []
    for wait_ns in (0, 0, DELAYED_UPDATE_NS):
        if wait_ns:
            await host.wait(wait_ns)
        page = (await _read(vcpu)).page
        assert page is not None, "the page was registered"
        versions.append(page.version)
    return versions[0], versions[1], versions[2]
