"""A new snapshot does not begin a new line: each page goes on where the one before it leads to (after Woodhouse's v6).

Made after what v6's cover letter says, not after its text: while the masterclock is on, Definition B
is never anchored on the raw clock again. After a TSC write, which makes the old line meaningless, it is.
"""

from __future__ import annotations

from guestclock.arith import pvclock_scale_delta, s64, u64
from guestclock.kvm.model.x86.kernels import LINUX_6_12
from guestclock.kvm.model.x86.state import VcpuTime


def the_line_goes_on(vcpu: VcpuTime, kernel_ns: int, tsc: int) -> int:
    if vcpu.page_tsc_timestamp == 0:
        return kernel_ns
    delta = u64(tsc - vcpu.page_tsc_timestamp)
    return s64(pvclock_scale_delta(delta, vcpu.pvclock_tsc_mul, vcpu.pvclock_tsc_shift) + vcpu.last_kernel_ns)


PROFILE = LINUX_6_12.but(
    name="linux-6.12+snapshot-on-the-page-line",
    about="a new snapshot goes on along the page's own line",
    page_ns=the_line_goes_on,
)
