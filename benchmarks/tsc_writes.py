"""TSC writes: KVM_SET_MSRS on the model, scheduler included, against the same arithmetic as one plain function."""

from __future__ import annotations

from benchmarks.measure import rate, side_by_side
from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.arith import clocks_calc_mult_shift, kvm_get_time_scale, nsec_to_cycles, raw_ns, u64
from guestclock.kvm.api import CreateVcpu, CreateVm, SetMsr
from guestclock.kvm.model import lookup
from guestclock.kvm.model.x86 import X86Kvm
from guestclock.machine import HostSpec, X86Machine
from guestclock.sim import Scheduler, Timeline

WRITES = 20_000
KHZ = 2_596_122
STEP_PS, READ_PS = 1_000_000, 20_000
VALUES = [5 * KHZ * 1000 + i * KHZ for i in range(WRITES)]


def on_the_model() -> int:
    timeline = Timeline(READ_PS)
    scheduler = Scheduler(timeline, STEP_PS)
    kvm = X86Kvm(X86Machine(timeline, HostSpec(tsc_khz=KHZ), scheduler=scheduler), lookup("linux-6.12"), scheduler)

    async def writes() -> None:
        await kvm.execute(CreateVm())
        await kvm.execute(CreateVcpu(0))
        for value in VALUES:
            await kvm.execute(SetMsr(0, 0, MSR_IA32_TSC, value))

    scheduler.spawn("VMM", writes())
    scheduler.run()
    return int(kvm.vms[0].cur_tsc_generation)


def plainly() -> int:
    """kvm_synchronize_tsc() of 6.12 on local variables: three clock reads, the decision, what is remembered."""
    shift, scale = kvm_get_time_scale(KHZ * 1000, 10**9)
    mult, mult_shift = clocks_calc_mult_shift(KHZ)
    hz, hour, first_tsc = KHZ * 1000, 3600 * 10**9, 0
    now_ps = generation = last_write = last_nsec = cur_offset = offset = last_host_tsc = cycle_last = 0
    user_set_tsc = False
    for data in VALUES:
        now_ps += STEP_PS
        offset = u64(data - u64(first_tsc + now_ps * hz // 10**12))
        now_ps += READ_PS
        cycles = u64(first_tsc + now_ps * hz // 10**12)
        if cycles < cycle_last:
            cycles = cycle_last
        ns = u64(raw_ns(cycles, mult, mult_shift, hour))
        now_ps += READ_PS
        elapsed = u64(ns - last_nsec)
        matched = data == 0
        if not matched and user_set_tsc:
            expected = u64(last_write + nsec_to_cycles(elapsed, scale, shift))
            matched = data < u64(expected + hz) and u64(data + hz) > expected
        user_set_tsc = True
        if matched:
            offset = cur_offset
        else:
            generation += 1
            cur_offset = offset
        last_write, last_nsec = data, ns
        last_host_tsc = u64(first_tsc + now_ps * hz // 10**12)
        now_ps += READ_PS
    assert last_host_tsc
    return generation


def main() -> None:
    plain_s, model_s = side_by_side(plainly, on_the_model, rounds=5)
    print(f"TSC writes       plain function {rate(WRITES, plain_s)}   on the model {rate(WRITES, model_s)}   "
          f"{model_s / plain_s:.1f} times as long (aim 5)")  # fmt: skip


if __name__ == "__main__":
    main()
