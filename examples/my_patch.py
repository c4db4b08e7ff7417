"""A kernel of one's own: linux-6.12, whose window for "this TSC write means in sync" is 100 ms instead of 1 s."""

from guestclock.arith import u64
from guestclock.kvm.model.x86.kernels import LINUX_6_12
from guestclock.kvm.model.x86.tsc import vcpu_nsec_to_cycles


def expected_within_100ms(vm, vcpu, write):
    """As in 6.12, with a tenth of its second on either side."""
    khz = vcpu.virtual_tsc_khz
    if khz == 0 or khz != vm.last_tsc_khz:
        return False
    if write.data == 0:
        return True
    expected = u64(vm.last_tsc_write + vcpu_nsec_to_cycles(vcpu, write.elapsed_ns))
    window = khz * 100
    return vm.user_set_tsc and write.data < u64(expected + window) and u64(write.data + window) > expected


PROFILE = LINUX_6_12.but(name="my-patch", about="in sync within 100 ms", tsc_matching=expected_within_100ms)
