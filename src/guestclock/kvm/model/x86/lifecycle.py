"""How VMs and vCPUs come to be, are loaded on CPUs, and live through a sleep of the host."""

from __future__ import annotations

from guestclock.arith import s64, u64
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.masterclock import pvclock_update_vm_gtod_copy
from guestclock.kvm.model.x86.profile import creation_tsc
from guestclock.kvm.model.x86.requests import kick
from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.kvm.model.x86.tsc import (
    adjust_tsc_offset_host,
    compute_l1_tsc_offset,
    kvm_set_tsc_khz,
    kvm_vcpu_write_tsc_offset,
    rdtsc,
    write_tsc,
)
from guestclock.kvm.model.x86.xen import register_time_pages
from guestclock.sim import cp

# ---- creation


def kvm_arch_init_vm(kvm: KvmHost) -> VmTime:
    """A new VM: kvmclock begins at 0, no masterclock."""
    machine = kvm.machine
    max_khz = 0 if machine.constant_tsc else machine.tsc_khz
    vm = VmTime(
        id=len(kvm.vms),
        kvm=kvm,
        max_tsc_khz=max_khz,
        default_tsc_khz=max_khz or machine.tsc_khz,
    )
    vm.vm_init_tsc = machine.rdtsc()
    vm.kvmclock_offset = s64(-kvm.base_ns())
    kvm.profile.suspend_time.vm_created(vm)
    pvclock_update_vm_gtod_copy(vm)  # with no vCPU they are never "all matched": off
    kvm.state.vms = (*kvm.vms, vm)
    return vm


async def create_vcpu(vm: VmTime) -> VcpuTime:
    """A new vCPU: set up, published, and only then given its TSC (before 3.8: given its TSC, then published).

    Between the last two steps the vCPUs do not all match: a masterclock update there turns the masterclock off.
    """
    kvm: KvmHost = vm.kvm
    profile = kvm.profile
    vcpu = VcpuTime(
        index=len(vm.vcpus),
        vm=vm,
        l1_tsc_scaling_ratio=kvm.one,
        tsc_scaling_ratio=kvm.one,
        l2_ratio=kvm.one,
        guest_tsc_protected=kvm.options.guest_tsc_protected and profile.protects_tsc,
    )
    vcpu.mutex = True
    vm.ioctls += 1
    profile.suspend_time.vcpu_created(vcpu)
    vcpu_load(vcpu)
    kvm_set_tsc_khz(vcpu, vm.default_tsc_khz)
    if profile.creation_before_publish:
        await profile.creation_tsc(vcpu)
    vcpu_put(vcpu)
    await cp("create_vcpu: publish")
    if kvm.options.xen_time_pages:
        register_time_pages(vcpu)
    vm.vcpus = (*vm.vcpus, vcpu)
    vm.online_vcpus += 1
    if not profile.creation_before_publish:
        await cp("create_vcpu: postcreate")
        vcpu_load(vcpu)
        await profile.creation_tsc(vcpu)
        vcpu_put(vcpu)
    profile.suspend_time.vcpu_has_tsc(vcpu)
    profile.vcpu_created(vcpu)
    vcpu.mutex = False
    vm.ioctls -= 1
    return vcpu


@creation_tsc.rule(since="2.6.37")
async def tracked_write_of_0(vcpu: VcpuTime) -> None:
    """A tracked write of 0 by the kernel."""
    await write_tsc(vcpu, 0, "kernel")


@creation_tsc.rule(since="2.6.33", commit="53f658b3c336")
async def tsc_since_vm_creation(vcpu: VcpuTime) -> None:
    """The TSC counts from the creation of the VM, on all vCPUs alike (VMX, up to 2.6.36)."""
    vm: VmTime = vcpu.vm
    now = rdtsc(vcpu)
    kvm_vcpu_write_tsc_offset(vcpu, u64(-(now if now < vm.vm_init_tsc else vm.vm_init_tsc)))


# ---- load and put


def vcpu_load(vcpu: VcpuTime) -> None:
    """kvm_arch_vcpu_load() on the physical CPU that the vCPU's thread may use.

    On another CPU than last time, or at each load while the TSC is unstable: a host TSC behind that of the last put
    makes KVM give up on the host's TSC for good; on an unstable one the guest's TSC goes on from where it was.
    """
    vm: VmTime = vcpu.vm
    kvm: KvmHost = vm.kvm
    machine = kvm.machine
    cpu = vcpu.on_cpu = vcpu.affinity
    if vcpu.tsc_offset_adjustment != 0:
        adjust_tsc_offset_host(vcpu, vcpu.tsc_offset_adjustment)
        vcpu.tsc_offset_adjustment = 0
        vcpu.req_clock_update = True
    if vcpu.cpu == cpu and not machine.kvm_check_tsc_unstable():
        return
    if vcpu.last_host_tsc != 0 and s64(rdtsc(vcpu) - vcpu.last_host_tsc) < 0:
        machine.mark_tsc_unstable("KVM discovered backwards TSC")
    if machine.kvm_check_tsc_unstable():
        kvm_vcpu_write_tsc_offset(vcpu, compute_l1_tsc_offset(vcpu, vcpu.last_guest_tsc))
        if not vcpu.guest_tsc_protected:
            vcpu.tsc_catchup = True
    if vcpu.cpu == -1 or not vm.use_master_clock:
        kvm.profile.load_update(vcpu)
    if vcpu.cpu != cpu:
        vcpu.req_migrate_timer = True
        vcpu.cpu = cpu


def vcpu_put(vcpu: VcpuTime) -> None:
    kvm: KvmHost = vcpu.vm.kvm
    vcpu.last_host_tsc = kvm.machine.rdtsc(vcpu.on_cpu)


# ---- sleep of the host, frequency of its CPUs


def kvm_arch_suspend_notifier(kvm: KvmHost) -> None:
    """Before a sleep: guests with an active page shall be told that they were stopped (5.14+)."""
    for vm in kvm.vms:
        for vcpu in vm.vcpus:
            if vcpu.pv_time is not None:
                vcpu.pvclock_set_guest_stopped_request = True
                vcpu.req_clock_update = True


def kvm_arch_enable_virtualization_cpu(kvm: KvmHost, cpu: int) -> None:
    """A CPU comes (back) online. If its TSC is behind what vCPUs saw, all guests' TSCs are moved by the difference.

    Such a VM never gets a masterclock again (backwards_tsc_observed, 3.16). Time slept is lost from the guest's TSC.
    """
    machine = kvm.machine
    local = machine.rdtsc(cpu)
    stable = not machine.kvm_check_tsc_unstable()
    max_tsc = 0
    backwards = False
    for vm in kvm.vms:
        for vcpu in vm.vcpus:
            if not stable and vcpu.cpu == cpu:
                vcpu.req_clock_update = True
            if stable and vcpu.last_host_tsc > local:
                backwards = True
                if vcpu.last_host_tsc > max_tsc:
                    max_tsc = vcpu.last_host_tsc
    if not backwards:
        return
    delta = u64(max_tsc - local)
    for vm in kvm.vms:
        if kvm.profile.backwards_tsc_kept:
            vm.backwards_tsc_observed = True
        for vcpu in vm.vcpus:
            vcpu.tsc_offset_adjustment = s64(vcpu.tsc_offset_adjustment + delta)
            vcpu.last_host_tsc = local
            vcpu.req_masterclock_update = True
        vm.last_tsc_nsec = 0
        vm.last_tsc_write = 0


def kvmclock_cpufreq_notifier(kvm: KvmHost, cpu: int) -> None:
    """Without CONSTANT_TSC: a CPU's rate has changed; its vCPUs need new pages, running ones at once."""
    for vm in kvm.vms:
        for vcpu in vm.vcpus:
            if vcpu.cpu == cpu:
                vcpu.req_clock_update = True
                kick(vcpu)
