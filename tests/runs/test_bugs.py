"""The bug corpus: what kvm-x86.md section 7 says each of them shows."""

import pytest

from tests.runs.story import reading, stories, story

HOUR_NS = 3_600 * 10**9


@pytest.mark.parametrize("kernel", ["linux-6.1", "linux-6.12"])
class TestOnOldAndNew:
    def test_defeated_1s_rule(self, kernel):
        """7.7: 10 ms apart, and not matched, because the kernel's own write of 0 lies between."""
        run = story("bugs/defeated-1s-rule", kernel)
        assert run.clock(4)["flags"] == 0
        assert abs(run.skew_ns(4) - 10_000_000) < 50_000
        assert run.clock(run.last)["flags"] == 14
        assert run.skew_ns(run.last) == 0

    def test_stable_while_unmatched(self, kernel):
        """7.25: until the writer enters, the others' pages and KVM_GET_CLOCK go on saying STABLE."""
        run = story("bugs/stable-while-unmatched", kernel)
        assert run.skew_ns(2) == -1_000_000_000
        assert [(run.flags(step, 1), run.clock(step)["flags"]) for step in (2, 3, 4, 5)] == [(1, 14)] * 4
        assert run.clock(6)["flags"] == 0
        assert [run.flags(7, vcpu) for vcpu in (0, 1)] == [0, 0]

    def test_two_snapshots_at_boot(self, kernel):
        """7.26: 20 s at -49.868 ns/s between two pages of one guest, STABLE in both."""
        run = story("bugs/two-snapshots-at-boot", kernel)
        first, second = (run.peek(3, vcpu)["page"] for vcpu in (0, 1))
        assert (first["flags"], second["flags"]) == (1, 1)
        assert second["system_time"] - reading(first, second["tsc_timestamp"]) in (-997, -998)
        later = [run.peek(4, vcpu)["page"] for vcpu in (0, 1)]
        assert later[0]["tsc_timestamp"] == later[1]["tsc_timestamp"]

    def test_clocksource_switch(self, kernel):
        """7.23: off with hpet, still off back on tsc; KVM_SET_CLOCK looks anew."""
        run = story("bugs/clocksource-switch", kernel)
        assert {step: run.clock(step)["flags"] for step in (0, 3, 6, 8)} == {0: 14, 3: 0, 6: 0, 8: 14}
        assert [run.flags(9, vcpu) for vcpu in (0, 1)] == [1, 1]

    def test_suspend_backwards_tsc(self, kernel):
        """7.13: backwards_tsc_observed is for ever; the guest's TSC has not seen the hour."""
        run = story("bugs/suspend-backwards-tsc", kernel)
        assert [run.flags(2, vcpu) for vcpu in (0, 1)] == [1, 1]
        # bit 1 is GUEST_STOPPED: the guest was told of the sleep
        assert [run.flags(step, vcpu) & 1 for step in (4, 6) for vcpu in (0, 1)] == [0, 0, 0, 0]
        assert run.clock(6)["flags"] == 0
        assert run.read(4, 0)["tsc"] - run.read(2, 0)["tsc"] < run.khz
        assert abs(run.read(4, 0)["kvmclock_ns"] - run.read(2, 0)["kvmclock_ns"] - HOUR_NS) < 10**9

    def test_tsc_khz_failure(self, kernel):
        """7.9a: refused, and remembered all the same; what is written to both no longer matches."""
        run = story("bugs/tsc-khz-failure", kernel)
        assert [e.data for e in run.named("note", "refused")] == [{"errno": "EINVAL", "op": "SetTscKhz"}]
        assert [e.data["result"] for e in run.named("op", "GetTscKhz", 2)] == [2_596_122, 2_000_000]
        assert run.clock(2)["flags"] == 14
        assert run.clock(5)["flags"] == 0
        assert run.skew_ns(5) != 0

    def test_old_msr(self, kernel):
        """7.16: only the guest's own write on vCPU 0 counts."""
        run = story("bugs/old-msr", kernel)
        assert {step: run.clock(step)["flags"] for step in (1, 3, 5, 6)} == {1: 14, 3: 14, 5: 0, 6: 0}
        assert [run.flags(6, vcpu) for vcpu in (0, 1)] == [0, 0]


def test_stale_page():
    """7.24: in 6.7 every writer refreshed itself; since then vCPU 1 is an hour ahead until its page is written."""
    ahead_ns = {}
    for (kernel,), run in stories("bugs/stale-page").items():
        ahead_ns[kernel] = run.read(5, 1)["kvmclock_ns"] - run.clock(4)["clock_ns"]
        assert (run.peek(5, 1)["page"] == run.peek(2, 1)["page"]) == (kernel != "linux-6.7")
        assert abs(run.read(7, 1)["kvmclock_ns"] - run.clock(6)["clock_ns"]) < 50_000, "vCPU 0 has run"
    assert abs(ahead_ns.pop("linux-6.7")) < 50_000
    assert all(abs(ns - HOUR_NS) < 50_000 for ns in ahead_ns.values())


def test_scaling_drift():
    """7.3, 7.4, 9.2: +400.177 ns/s between the guest's kvmclock (B) and KVM's (C); SET_CLOCK takes it back at once."""
    run = story("bugs/scaling-drift", "linux-6.12")
    before, after = (b_minus_c(run, step) for step in (4, 5))
    assert abs(after - before - 400_177) <= 2
    assert b_minus_c(run, 9) in range(-2, 3)
    assert run.read(9, 0)["kvmclock_ns"] < run.read(6, 0)["kvmclock_ns"], "the guest's clock has gone back"


def b_minus_c(run, step):
    """The guest's kvmclock minus KVM_GET_CLOCK's, both at the host TSC of the latter."""
    peek, clock = run.peek(step, 0), run.clock(step)
    between = clock["host_tsc"] - peek["host_tsc"][0]
    return peek["kvmclock_ns"] + between * 1_000_000 // run.khz - clock["clock_ns"]


def test_first_write_of_a_young_guest():
    """7.8: up to 6.6 the write is "corrected" to the line the new VM was created on."""
    age_ms = {k: run.read(6, 0)["tsc"] // run.khz for (k,), run in stories("bugs/first-write-of-a-young-guest").items()}
    assert age_ms == {"linux-6.1": 0, "linux-6.7": 250, "linux-6.12": 250}


def test_guest_tsc_write():
    """7.10: kvmclock goes where the TSC goes, STABLE set; before 5.10 the write was tracked and the page followed."""
    jumped_ns = {}
    for (kernel,), run in stories("bugs/guest-tsc-write").items():
        jumped_ns[kernel] = run.read(3, 1)["kvmclock_ns"] - run.read(3, 0)["kvmclock_ns"]
        stable = run.flags(3, 1) & 1
        assert stable == (kernel != "linux-4.12")
        assert abs(run.read(5, 1)["kvmclock_ns"] - run.read(5, 0)["kvmclock_ns"]) < 50_000, "a page update mends it"
    assert abs(jumped_ns.pop("linux-4.12")) < 50_000
    assert all(abs(ns - HOUR_NS + 10 * 10**9) < 10**6 for ns in jumped_ns.values())
