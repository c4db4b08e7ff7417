"""The guest writes vCPU 1's TSC. KVM moves the offset and leaves the page as it is: kvmclock jumps along."""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Vm, Wrmsr

SEEN = "0c899c25d754 (5.10); arch/x86/kvm/x86.c kvm_set_msr_common()"
POLICY = {"kvmclock": "run"}

HOUR_S = 3_600


async def pause(vm: Vm) -> None:
    last = vm.vcpus[-1]
    await last.kick()
    khz = await last.get_tsc_khz()
    vm.kept["tsc"] = await last.get_msr(MSR_IA32_TSC) + HOUR_S * 1_000 * khz


async def resume(vm: Vm) -> None:
    last = vm.vcpus[-1]
    await last.run(Wrmsr(MSR_IA32_TSC, vm.kept["tsc"]))
    await last.start()
