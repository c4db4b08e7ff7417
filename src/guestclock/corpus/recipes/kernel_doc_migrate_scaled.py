"""The kernel documentation's migration with the host's TSCs made the guest's: scaled by the ratio of the two rates.

KVM does not let the ratio be read before KVM_VCPU_TSC_SCALE; here it is worked out as KVM does, for a host that scales
by 48 bits (VMX).
"""

from __future__ import annotations

from guestclock.abi.ioctl import KVM_CLOCK_REALTIME
from guestclock.arith import scale_tsc, tsc_ratio
from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.kernel_doc_migrate import save
from guestclock.vmm.snapshot import Snapshot

SEEN = "kvm list, 'Cleaning up the KVM clock mess' v6, 3 Jul 2026, Documentation/virt/kvm/devices/vcpu.rst"
POLICY = {"tsc": "advance", "kvmclock": "advance"}

FRAC_BITS = 48
SOURCE_KHZ = DESTINATION_KHZ = 3_000_000

__all__ = ["restore", "save"]


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    src = snapshot.clock
    tsc_khz = snapshot.vcpus[0].tsc_khz
    for vcpu in vm.vcpus:
        await vcpu.set_tsc_khz(tsc_khz)
    await vm.set_clock(src.clock_ns, KVM_CLOCK_REALTIME, src.realtime_ns)
    dst = await vm.get_clock()
    raw_src = scale_tsc(src.host_tsc, tsc_ratio(tsc_khz, SOURCE_KHZ, FRAC_BITS), FRAC_BITS)
    raw_dst = scale_tsc(dst.host_tsc, tsc_ratio(tsc_khz, DESTINATION_KHZ, FRAC_BITS), FRAC_BITS)
    passed = (dst.clock_ns - src.clock_ns) * tsc_khz // 1_000_000
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await vcpu.set_tsc_offset(saved.tsc_offset + passed + raw_src - raw_dst)
