"""A guest's clock readings on the TSC and on kvm-clock, counted and timed; an hour of ticks, one by one or lazily."""

from __future__ import annotations

from benchmarks.measure import rate, side_by_side
from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.guest.clock_readers import Cost, KvmclockSource, Source, TscSource, getter
from guestclock.guest.pvclock import LastValue, PvclockReader, kvmclock_ns
from guestclock.linux import Timekeeper, Timex, clocksource
from guestclock.linux.ntp import ADJ_FREQUENCY
from guestclock.linux.readout import Readout
from guestclock.linux.ticks import Ticks
from guestclock.sim import Scheduler, Timeline

KHZ = 2_596_122
READS, READERS = 100_000, 20_000
PAGE = PvclockVcpuTimeInfo(2, 2**52, 10**15, 0xC5379CA5, -1, 1)
TICKS = 3600 * 250


def started(name: str, cycles: int) -> Timekeeper:
    return Timekeeper.start(clocksource(name, tsc_khz=KHZ), cycles, hz=250, monotonic_ns=10**12, realtime_ns=10**18)


def one_conversion() -> int:
    tk, total = started("tsc", 2**52), 0
    for tsc in range(2**52, 2**52 + READS * 2596, 2596):
        total += tk.monotonic_ns(tsc)
    return total


def two_conversions() -> int:
    tk, total = started("kvm-clock", 10**15), 0
    for tsc in range(2**52, 2**52 + READS * 2596, 2596):
        total += tk.monotonic_ns(kvmclock_ns(PAGE, tsc))
    return total


def read(name: str, source: Source, cycles: int) -> Cost:
    """READERS readings as actors, one after the other; what they cost."""
    readout, cost = Readout.of(started(name, cycles)), Cost()

    async def reader() -> None:
        for _ in range(READERS):
            await getter(readout, "monotonic", source, cost)

    scheduler = Scheduler(Timeline())
    scheduler.spawn("reader", reader())
    scheduler.run()
    return cost


def on_the_tsc() -> Cost:
    return read("tsc", TscSource(lambda: 2**52 + 12345), 2**52)


def on_kvm_clock() -> Cost:
    source = KvmclockSource(PvclockReader(), PAGE, PAGE, lambda: 2**52 + 12345, LastValue())
    return read("kvm-clock", source, 10**15)


def slewed() -> Timekeeper:
    tk = started("tsc", 0)
    tk.adjtimex(0, Timex(modes=ADJ_FREQUENCY, freq=100 << 16))
    return tk


def lazy_hour() -> int:
    tk = slewed()
    tk.tick_until(3600 * KHZ * 1000)
    return tk.monotonic_ns(3600 * KHZ * 1000)


def hour_of_ticks() -> int:
    tk = slewed()
    ticks = Ticks(due_ns=10**12 + 4_000_000, period_ns=4_000_000)
    ticks.until(tk, 3600 * KHZ * 1000)
    return tk.monotonic_ns(3600 * KHZ * 1000)


def main() -> None:
    one_s, two_s = side_by_side(one_conversion, two_conversions)
    print(f"clock readings   one conversion (TSC) {rate(READS, one_s)}   two (kvm-clock) {rate(READS, two_s)}   "
          f"the second costs {two_s / one_s - 1:.2f} of the first")  # fmt: skip
    tsc, kvm = on_the_tsc(), on_kvm_clock()
    tsc_s, kvm_s = side_by_side(on_the_tsc, on_kvm_clock, rounds=3)
    print(f"as actors        sequences and conversions per reading: TSC {tsc.sequences // READERS} and "
          f"{tsc.conversions // READERS}, {rate(READERS, tsc_s)}; kvm-clock {kvm.sequences // READERS} and "
          f"{kvm.conversions // READERS}, {rate(READERS, kvm_s)}: {kvm_s / tsc_s:.2f} times as long")  # fmt: skip
    assert abs(lazy_hour() - hour_of_ticks()) <= 1
    lazy_s, ticks_s = side_by_side(lazy_hour, hour_of_ticks, rounds=1)
    print(f"an hour of ticks, slewed by 100 ppm   one by one {rate(TICKS, ticks_s)}   "
          f"in one step {lazy_s * 1e6:.0f} us, {ticks_s / lazy_s:.0f} times as fast")  # fmt: skip


if __name__ == "__main__":
    main()
