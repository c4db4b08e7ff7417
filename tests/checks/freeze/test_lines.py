"""What the worlds with times read (one line per reader) is what a kernel's readers compute from its own fields."""

from __future__ import annotations

from random import Random

import pytest

from guestclock.arith import nested_tsc_offset, nested_tsc_ratio, s64, u64
from guestclock.checks.freeze.clock_states import Line
from guestclock.guest.freeze import CORRECTED, MIGRATED, Record, freeze, reconfigure, unfreeze
from guestclock.linux import Timekeeper, Timex, clocksource
from guestclock.linux.clocksource import arch_sys_counter
from guestclock.linux.ntp import ADJ_FREQUENCY
from guestclock.linux.readout import Readout, cycles_to_ns, vdso_calc_ns, vdso_calc_ns_generic

SECOND = 10**9


def readings(readout: Readout, cycles: int) -> set[int]:
    """MONOTONIC by syscall, by vDSO, and by the latch."""
    vdso, fast = readout.vdso, readout.fast_mono.base(readout.fast_mono.seq)
    basetime = vdso.basetime["monotonic"]
    return {
        readout.mono.base_ns + cycles_to_ns(readout.mono, cycles),
        basetime.sec * SECOND + vdso_calc_ns(vdso, cycles, basetime.nsec),
        fast.base_ns + cycles_to_ns(fast, cycles),
    }


@pytest.mark.parametrize("seed", range(20))
def test_a_line_reads_as_the_kernels_own_fields_do(seed: int):
    rng = Random(seed)
    source, target = rng.sample((1_000_000, 2_100_000, 2_596_122, 2_999_999), 2)
    start = rng.randrange(2**50)
    tk = Timekeeper.start(
        clocksource("tsc", tsc_khz=source), start, hz=250, monotonic_ns=rng.randrange(10**15), realtime_ns=10**18
    )
    tk.adjtimex(start, Timex(modes=ADJ_FREQUENCY, freq=rng.randrange(-500, 501) * 65536))
    tk.tick_until(start + rng.randrange(10**10))
    at = tk.cycle_last + rng.randrange(10**7)
    stop, back = at + rng.randrange(10**7), rng.randrange(2**50)
    record = Record(
        epoch=1, status=MIGRATED, clock=clocksource("tsc", tsc_khz=target), stop_cycles=stop,
        downtime_ns=rng.randrange(10**12), as_of_cycles=back,
    )  # fmt: skip

    def compare(around: int) -> None:
        line, readout = Line(), Readout.of(tk)
        line.store(tk, 0)
        for cycles in (around, around + rng.randrange(10**9), around + rng.randrange(10**12), around - 12_345):
            assert readings(readout, cycles) == {line.ns(cycles)}
        basetime = readout.vdso.basetime["boottime"]
        boottime_ns = basetime.sec * SECOND + vdso_calc_ns(readout.vdso, around, basetime.nsec)
        assert boottime_ns == line.ns(around) + line.offs_boot_ns

    compare(tk.cycle_last)
    freeze(tk, at, CORRECTED)
    compare(at)
    reconfigure(tk, record, back, CORRECTED)
    unfreeze(tk, record, back + 7, CORRECTED)
    compare(back + 7)


@pytest.mark.parametrize("seed", range(20))
def test_an_arm64_line_reads_as_the_kernels_own_fields_do(seed: int):
    """The counter is 56 bits and more. The vDSO does not clamp: one tick behind, only the timekeeper's getters do."""
    rng = Random(seed)
    source, target = rng.sample((19_200_000, 24_000_000, 62_500_000, 1_000_000_000), 2)
    start = rng.randrange(2**50)
    tk = Timekeeper.start(
        arch_sys_counter(source), start, hz=250, monotonic_ns=rng.randrange(10**15), realtime_ns=10**18
    )
    at, back = start + rng.randrange(10**7), rng.randrange(2**50)
    stop = at + rng.randrange(10**6)
    record = Record(
        epoch=1, status=MIGRATED, clock=arch_sys_counter(target), stop_cycles=stop, downtime_ns=5, as_of_cycles=back
    )

    def compare(around: int) -> None:
        line, vdso, readout = Line(), Line(clamps=False), Readout.of(tk)
        line.store(tk, 0)
        vdso.store(tk, 0)
        data, basetime = readout.vdso, readout.vdso.basetime["monotonic"]
        for cycles in (around, around + rng.randrange(10**6), around + rng.randrange(10**9)):
            generic = basetime.sec * SECOND + vdso_calc_ns_generic(data, cycles, basetime.nsec)
            assert generic == vdso.ns(cycles) == line.ns(cycles)
        behind = tk.cycle_last - 1
        assert line.ns(behind) == readout.mono.base_ns + cycles_to_ns(readout.mono, behind)
        assert vdso.ns(behind) > line.ns(behind) + 10**16  # where the kernel's wraps at 64 bits: any value

    compare(tk.cycle_last)
    freeze(tk, at, CORRECTED)
    reconfigure(tk, record, back, CORRECTED)
    unfreeze(tk, record, back + 7, CORRECTED)
    compare(back + 7)


@pytest.mark.parametrize("bits", [32, 48])
def test_the_frequency_is_handed_down(bits: int):
    """The thread's first case: without a ratio of its own L2's TSC is L1's and an offset, whatever scales L1's."""
    rng = Random(bits)
    one = 1 << bits
    for _ in range(200):
        ratio, offset, l2_offset = (
            rng.randrange(one // 2, 2 * one),
            rng.randrange(-(2**50), 2**50),
            rng.randrange(2**40),
        )
        composed = nested_tsc_ratio(ratio, one, bits), s64(nested_tsc_offset(u64(offset), u64(l2_offset), one, bits))
        for host in (0, 1, rng.randrange(2**55)):
            l1 = (host * ratio >> bits) + offset
            assert (host * composed[0] >> bits) + composed[1] == l1 + l2_offset
