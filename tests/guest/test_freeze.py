"""freeze(), reconfigure(), unfreeze() on the guest's timekeeper: the figures of the analysis of the 2017 thread."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from guestclock.guest.freeze import (
    AS_WRITTEN,
    AT_STOP,
    CORRECTED,
    MIGRATED,
    NOW,
    NOWHERE,
    RUN,
    SAME_HOST,
    STOP,
    Record,
    freeze,
    reconfigure,
    unfreeze,
)
from guestclock.linux import Ntp, Timekeeper, Timex, clocksource
from guestclock.linux.image import broken, image
from guestclock.linux.ntp import ADJ_FREQUENCY, STA_UNSYNC

SECOND = 10**9
MS_2_4 = 2_400_000
MULT_ROUNDS = 3 * SECOND // (2 * 6_990_507) + 1
"""What 3 s at 2.4 GHz can be off, ns, where no tick has come yet: half a step of mult."""
RATES = (1_000_000, 2_100_000, 2_400_000, 2_900_000, 3_000_000)
ODD = (999_999, 2_596_122, 2_399_999, 3_000_001)
PAIRS = [
    (source, source * num // den + odd)
    for source in (2_400_000, 2_596_122, 2_999_999)
    for num, den in ((4, 5), (9, 10), (1, 1), (11, 10), (5, 4))
    for odd in (0, 1, -7)
]
CLOSES_NOW, CLOSES_AT_STOP = CORRECTED, replace(CORRECTED, rebase=AT_STOP)


def guest(khz: int, cycles: int = 10**12, monotonic_ns: int = 100 * SECOND + 7, freq: int = 0) -> Timekeeper:
    clock = clocksource("tsc", tsc_khz=khz)
    tk = Timekeeper.start(clock, cycles, hz=250, monotonic_ns=monotonic_ns, realtime_ns=1_700_000_000 * SECOND)
    if freq:
        tk.adjtimex(cycles, Timex(modes=ADJ_FREQUENCY, freq=freq))
        tk.tick_until(cycles + 2 * tk.cycle_interval)
    return tk


def moved(tk, rules, *, at, stop, khz, back, status=MIGRATED, policy=STOP, downtime_ns=0, waits=0):
    """Frozen at counter `at`, stopped at `stop`, thawed where the new counter is `back`, `waits` after the record."""
    freeze(tk, at, rules)
    clock = clocksource("tsc", tsc_khz=khz)
    record = Record(
        epoch=1, status=status, clock=clock, stop_cycles=stop, downtime_ns=downtime_ns, policy=policy,
        as_of_cycles=back - waits if rules.rebase == NOW else stop,
    )  # fmt: skip
    reconfigure(tk, record, back, rules)
    unfreeze(tk, record, back, rules)
    assert broken(image(tk)) == ()
    return tk


def random_move(rng: Random, rates=RATES, longest_ns=1_000_000):
    """A guest that ticks, NTP on, and is to be frozen some cycles after its last tick and stopped some later."""
    source, target = rng.sample(rates, 2)
    tk = guest(source, rng.randrange(2**40), rng.randrange(10**15), rng.randrange(-500, 501) * 65536)
    tk.tick_until(tk.cycle_last + rng.randrange(5 * source))
    at = tk.cycle_last + rng.randrange(tk.cycle_interval)
    stop = at + rng.randrange(longest_ns * source // 1_000_000)
    return tk, at, stop, target, rng.randrange(2**60)


@pytest.mark.parametrize("rates", [RATES, ODD], ids=["listed", "odd kHz"])
def test_as_written_it_steps_back_by_the_gap_in_every_case(rates):
    rng, worst = Random(2017), 0
    for _ in range(700):
        tk, at, stop, khz, back = random_move(rng, rates)
        frozen, last_read = tk.monotonic_ns(at), tk.monotonic_ns(stop)
        moved(tk, AS_WRITTEN, at=at, stop=stop, khz=khz, back=back)
        assert last_read - tk.monotonic_ns(back) == last_read - frozen
        assert (last_read > frozen) == (last_read > tk.monotonic_ns(back))
        worst = max(worst, last_read - tk.monotonic_ns(back))
    assert 985_000 < worst <= 1_000_500  # the longest gap, and 500 ppm of NTP


@pytest.mark.parametrize("rules", [CLOSES_NOW, CLOSES_AT_STOP], ids=["rebased now", "rebased at the stop"])
@pytest.mark.parametrize("rates", [RATES, ODD], ids=["listed", "odd kHz"])
def test_closed_at_the_stop_no_nanosecond_is_lost_or_made(rules, rates):
    rng = Random(23)
    shifts = set()
    for _ in range(700):
        tk, at, stop, khz, back = random_move(rng, rates)
        back = stop if rules.rebase == AT_STOP else back
        before = tk.clock.shift
        last_read, raw = tk.monotonic_ns(stop), tk.raw_ns(stop)
        moved(tk, rules, at=at, stop=stop, khz=khz, back=back)
        assert (tk.monotonic_ns(back), tk.raw_ns(back)) == (last_read, raw)
        shifts.add((before, tk.clock.shift))
    assert len(shifts) > 1


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_monotonic_is_continuous_to_the_nanosecond_and_goes_on_at_the_new_rate(source, target):
    tk = guest(source, freq=33 * 65536)
    at = tk.cycle_last + source // 3
    stop = at + 12_345
    last_read = tk.monotonic_ns(stop)
    moved(tk, CORRECTED, at=at, stop=stop, khz=target, back=99, downtime_ns=SECOND)
    assert tk.monotonic_ns(99) == last_read
    half_a_step = SECOND // (2 * tk.raw_mult) + 1  # mult is rounded, and no tick has come yet
    assert abs(tk.monotonic_ns(99 + 1000 * target) - last_read - SECOND) <= half_a_step


@pytest.mark.parametrize(
    ("target", "gap_ms", "wrong_ns"),
    [(2_900_000, 1, -172_414), (2_100_000, 1, 142_857), (2_900_000, 100, -17_241_380)],
)
def test_the_gap_by_the_new_factors(target, gap_ms, wrong_ns):
    """What closing saves from: the host has made the counter go on, and the gap is counted by the wrong factors."""
    tk = guest(2_400_000)
    stop = 10**12 + gap_ms * MS_2_4
    last_read = tk.monotonic_ns(stop)
    moved(tk, replace(AS_WRITTEN, rebase=NOWHERE), at=10**12, stop=stop, khz=target, back=stop)
    assert tk.monotonic_ns(stop) - last_read == pytest.approx(wrong_ns, abs=10)


def test_a_continuous_counter_that_is_not_rebased_counts_the_downtime():
    tk = guest(2_400_000)
    back = 10**12 + 2000 * MS_2_4
    moved(tk, replace(CORRECTED, rebase=NOWHERE), at=10**12, stop=10**12, khz=2_400_000, back=back)
    assert tk.monotonic_ns(back) == pytest.approx(102 * SECOND + 7, abs=MULT_ROUNDS)


def test_factors_alone_leap_forward_or_stand_still_but_never_step_back():
    rng = Random(5)
    leapt = 0
    for _ in range(500):
        tk, at, stop, khz, back = random_move(rng)
        frozen = tk.monotonic_ns(at)
        moved(tk, replace(AS_WRITTEN, rebase=NOWHERE), at=at, stop=stop, khz=khz, back=back)
        # A counter that is behind is taken as it is by forward_now(): time stands still once, then goes on.
        assert tk.monotonic_ns(back) >= frozen
        leapt += tk.monotonic_ns(back) - frozen > SECOND
    assert leapt > 400


@pytest.mark.parametrize("status", [MIGRATED, SAME_HOST])
def test_stop_gives_the_downtime_to_boottime_and_realtime(status):
    tk = guest(2_400_000)
    at, stop, back = 10**12 + 500, 10**12 + 900, 10**12 + 3000 * MS_2_4
    before = [tk.read_ns(clock, stop) for clock in ("monotonic", "boottime", "realtime", "tai")]
    moved(tk, CORRECTED, at=at, stop=stop, khz=2_400_000, back=back, status=status, downtime_ns=3 * SECOND)
    after = [tk.read_ns(clock, back) for clock in ("monotonic", "boottime", "realtime", "tai")]
    assert [x - y for x, y in zip(after, before, strict=True)] == [0, 3 * SECOND, 3 * SECOND, 3 * SECOND]


def test_downtime_and_counter_are_one_pair():
    """The guest looks 5 s after the host did: still downtime. One that takes the number alone is 5 s short."""
    for rules, boottime_ns in ((CORRECTED, 8 * SECOND), (replace(CORRECTED, adds_wait=False), 3 * SECOND)):
        tk = guest(2_400_000)
        stop, back = 10**12 + 900, 10**15
        before = tk.boottime_ns(stop)
        moved(
            tk, rules, at=10**12, stop=stop, khz=2_999_999, back=back, downtime_ns=3 * SECOND, waits=5 * 2_999_999_000
        )
        assert tk.boottime_ns(back) - before == pytest.approx(boottime_ns, abs=2 * MULT_ROUNDS)


@pytest.mark.parametrize("status", [MIGRATED, SAME_HOST])
def test_run_gives_the_downtime_to_all_clocks(status):
    tk = guest(2_400_000)
    at, stop, back = 10**12 + 500, 10**12 + 900, 10**12 + 900 + 3000 * MS_2_4
    before = [tk.read_ns(clock, stop) for clock in ("monotonic", "boottime", "realtime", "monotonic_raw")]
    moved(tk, CORRECTED, at=at, stop=stop, khz=2_400_000, back=back, status=status, policy=RUN, downtime_ns=3 * SECOND)
    after = [tk.read_ns(clock, back) for clock in ("monotonic", "boottime", "realtime", "monotonic_raw")]
    assert [x - y for x, y in zip(after, before, strict=True)] == pytest.approx([3 * SECOND] * 4, abs=MULT_ROUNDS)


def test_an_abort_is_the_identity():
    """SAME_HOST with RUN: every clock, now and later, reads what it reads where nobody froze anything."""
    rng = Random(11)
    for _ in range(200):
        tk, at, stop, _, _ = random_move(rng)
        twin = Timekeeper(**{name: getattr(tk, name) for name in tk.fields})
        back = stop + rng.randrange(10**9)
        moved(tk, CORRECTED, at=at, stop=stop, khz=1_000_000, back=back, status=SAME_HOST, policy=RUN)
        assert tk.clock_was_set_seq == twin.clock_was_set_seq + 1
        for cycles in (back, back + 1, back + 10**8):
            assert [tk.read_ns(c, cycles) for c in ("monotonic", "realtime", "boottime", "monotonic_raw")] == [
                twin.read_ns(c, cycles) for c in ("monotonic", "realtime", "boottime", "monotonic_raw")
            ]


def test_a_frozen_image_is_valid_anywhere_and_as_often_as_it_is_restored():
    """Saved in FROZEN, restored a day later on one host and a month later on another: each goes on from the stop."""
    tk = guest(2_400_000)
    at, stop = 10**12 + 500, 10**12 + 900
    freeze(tk, at)
    last_read, boottime = tk.monotonic_ns(stop), tk.boottime_ns(stop)
    for khz, back, days in ((2_596_122, 77, 1), (2_900_001, 10**14, 30)):
        copy = Timekeeper(**{name: getattr(tk, name) for name in tk.fields})
        copy.ntp = Ntp(**{name: getattr(tk.ntp, name) for name in tk.ntp.fields})
        record = Record(
            epoch=1, status=MIGRATED, clock=clocksource("tsc", tsc_khz=khz), stop_cycles=stop,
            downtime_ns=days * 86_400 * SECOND, as_of_cycles=back,
        )  # fmt: skip
        reconfigure(copy, record, back)
        unfreeze(copy, record, back)
        assert (copy.monotonic_ns(back), copy.boottime_ns(back)) == (last_read, boottime + days * 86_400 * SECOND)
    assert tk.monotonic_ns(stop) == last_read


def test_ntp_is_forgotten_only_by_a_guest_that_moved():
    """The mail clears it at freeze, also for a migration that never takes place."""
    for rules, status, frequency, unsync in (
        (CORRECTED, SAME_HOST, True, False),
        (CORRECTED, MIGRATED, False, True),
        (AS_WRITTEN, SAME_HOST, True, True),
    ):
        tk = guest(2_400_000, freq=50 * 65536)
        tk.ntp.time_status &= ~STA_UNSYNC
        at = tk.cycle_last + 5
        moved(tk, rules, at=at, stop=at + 5, khz=2_400_000, back=at + 9, status=status)
        assert (tk.ntp.time_freq != 0, bool(tk.ntp.time_status & STA_UNSYNC)) == (frequency, unsync), (rules, status)


def test_the_new_epoch_runs_at_the_new_hosts_nominal_rate():
    tk = guest(2_400_000, freq=500 * 65536)
    assert tk.mono_mult != tk.raw_mult
    moved(tk, CORRECTED, at=tk.cycle_last, stop=tk.cycle_last, khz=2_900_000, back=0)
    tk.tick_until(10 * 2_900_000_000)
    assert abs(tk.monotonic_ns(2_900_000_000 * 20) - tk.monotonic_ns(2_900_000_000 * 10) - 10 * SECOND) < 1000
