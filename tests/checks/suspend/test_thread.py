"""threads/2021-suspend: what the checker finds in each design, and what it must find in broken ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from guestclock.checks.suspend.setting import KHZ, Night, S, Setting
from guestclock.checks.suspend.thread import GATE, THREAD
from guestclock.checks.suspend.vmm import Gate
from guestclock.checks.suspend.world import VMMS
from guestclock.checks.verdict import HOLDS, VACUOUS
from guestclock.guest.suspend_time import GuestLinux, HandlerCorrected
from guestclock.kvm.model.overlay import plain
from guestclock.kvm.model.x86 import overlays
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.kvm.model.x86.suspend_corrected import SuspendCorrected
from guestclock.kvm.model.x86.suspend_time import SuspendPage
from guestclock.sim import cp
from tests.checks.suspend.asking import asked, held, in_world, leaves, replayed, violated, wrong

TICK_NS = 4_000_000


# ---- what is found


def test_stock_counts_the_sleep_where_the_tsc_runs_on_and_loses_it_where_it_does_not() -> None:
    running = wrong(asked("stock", "sleep"))
    assert set(running) == {"I6", "I8", "I10", "I24"}
    assert running["I6"] == pytest.approx(600 * S, abs=60_000_000)
    assert set(wrong(asked("stock", "reset"))) == {"I11", "I13", "I20", "I24"}


def test_v3_as_posted_truncates_to_milliseconds_and_tells_only_the_walls_timers() -> None:
    found = wrong(asked("v3", "sleep"))
    assert set(found) == {"I6", "I8", "I9", "I11", "I20"}
    assert found["I6"] == 1_000_000, "999 999 ns, and one for the readings' own nanoseconds"


def test_v3_on_a_tsc_that_began_anew_goes_back_by_the_age_of_the_last_tick() -> None:
    found = wrong(asked("v3", "reset", "I6", "I8"))
    assert found == {"I6": pytest.approx(TICK_NS, abs=2), "I8": pytest.approx(600.05 * 2_596_122_000, rel=1e-6)}


@pytest.mark.parametrize(
    ("case_", "property_", "worst"),
    [
        ("abort", "I23", 1),
        ("late", "I1", 1_557_803_006_100),
        ("reboot", "I21", 1),
        ("guest-asleep", "I21", 1),
        ("looked-at", "saved", 1_557_803_032_059),
        ("halted", "I9", 1),
        ("reboot-deaf", "stray", 1),
    ],
)
def test_defects_of_v3_come_out_by_themselves(case_: str, property_: str, worst: int) -> None:
    assert wrong(asked("v3", case_, property_)) == {property_: worst}


@pytest.mark.parametrize(
    "case_",
    ["sleep", "reset", "rtc", "kvm-clock", "abort", "plugged", "reboot", "guest-asleep", "deaf"],
)
def test_the_corrected_design_keeps_everything(case_: str) -> None:
    result = asked("corrected", case_)
    assert not wrong(result)
    assert not result.never
    assert [v for v in result.verdicts if v.status == HOLDS and v.asked], "nothing was asked"


def test_a_vmm_that_is_asked_before_the_sleep_keeps_everything_and_one_that_is_not_nothing() -> None:
    assert not wrong(asked("inhibitor", "sleep"))
    assert {"I6", "I10", "I24"} <= set(wrong(asked("inhibitor", "uninformed")))


@pytest.mark.parametrize("design", ["corrected", "inhibitor"])
def test_a_sleep_that_follows_at_once_is_hidden_too(design: str) -> None:
    assert held(asked(design, "again", "I1", "I6", "I8", "I24")) == {"I1", "I6", "I8", "I24"}


@pytest.mark.parametrize("case_", ["again", "arm64-again"])
def test_a_gate_hides_it_too(case_: str) -> None:
    """All orders are for a whole run of the thread: these are those in which the second sleep meets the VMM at work."""
    assert not violated(asked("gate", case_, "I1", "I8", "I24", orders=160))


def test_v3_swallows_the_request_of_a_sleep_that_follows_at_once() -> None:
    """The vCPU serves the first sleep's when the second's is planted already: one bit for both."""
    found = violated(asked("v3", "again", "I6", "I8", "I24", orders=30))
    assert found == {
        "I6": pytest.approx(130 * S, abs=60_000_000),
        "I8": pytest.approx(130 * KHZ * 1000, rel=1e-3),
        "I24": 1,
    }


class NumberBeforeTheEnd(Gate):
    """Has the gate's number before the sleep is over: it may be that of the next one, which was not hidden yet."""

    async def through(self, told: Any, stop: Any) -> bool:
        number, sleeps = told.gates, len(self.stage.outcome.sleeps)
        hidden_ns = await self.put_back(stop)
        await cp("the VMM acknowledges", until=lambda: told.over and self.stage.machine.tasks_run())
        if not self.stage.arch.acknowledged(self.stage.vm, number):
            return False
        self.tell(hidden_ns)
        self.adjusted = sleeps
        return True


@pytest.mark.parametrize("kernel", [GATE, "linux-6.12-arm64+sleep-gate"])
def test_a_gate_whose_number_is_had_too_early_opens_for_the_sleep_before(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VMMS, "broken", NumberBeforeTheEnd)
    nights = tuple(Night(least_ns=s * S, most_ns=s * S, kind="s2idle") for s in (600, 130))
    setting = Setting(kernel=kernel, handler=HandlerCorrected, vmm="broken", vcpus=1, nights=nights, again=True)
    assert set(violated(in_world(setting, "I8", "I24", orders=40))) == {"I8", "I24"}


def test_a_gate_keeps_everything_but_not_if_the_vmm_stamps_when_it_gets_to_it() -> None:
    assert not wrong(asked("gate", "sleep"))
    assert "I6" in wrong(asked("gate-late-stamp", "sleep", "I6"))


def test_the_rejected_two() -> None:
    assert wrong(asked("mono-is-boot", "sleep", "I6", "I10"))["I10"] == pytest.approx(600 * S, abs=S)
    found = wrong(asked("sysfs", "sleep", "I4", "I13"))
    assert set(found) == {"I4", "I13"}


def test_injection_gives_the_clocks_of_a_freeze_migration_to_the_same_host_and_boottime() -> None:
    """Migration on the timeline: stop, stamp, put back, inject. Proved of both, over all orders and delays:

    MONOTONIC gains nothing but what the host ran, and BOOTTIME all that passed, to the nanosecond of one truncation.
    """
    for design in ("corrected", "inhibitor", "gate"):
        bound = {v.property: v.bound for v in asked(design, "sleep", "I6", "I11").verdicts}
        assert bound["I6"] is not None
        assert bound["I6"] <= 0, design
        assert bound["I11"] is not None
        assert bound["I11"] <= 1, design


# ---- negative controls: one line of the corrected design is broken


class OneVcpu(SuspendCorrected):
    """Moves the first vCPU's TSC alone."""

    @classmethod
    def adjust(cls, vm: VmTime) -> None:
        others = [(vcpu, vcpu.l1_tsc_offset) for vcpu in vm.vcpus[1:]]
        super().adjust(vm)
        for vcpu, offset in others:
            vcpu.l1_tsc_offset = vcpu.tsc_offset = offset


class NoBooks(SuspendCorrected):
    """Leaves the generation's offset as it was."""

    @classmethod
    def adjust(cls, vm: VmTime) -> None:
        offset = vm.cur_tsc_offset
        super().adjust(vm)
        vm.cur_tsc_offset = offset


class AfterTheLoad(SuspendCorrected):
    """Takes a vCPU's offset as it finds it, not as it was at the stop."""

    @staticmethod
    def left(vcpu: VcpuTime) -> None:
        pass


class NobodyWaits(SuspendCorrected):
    """PREPARE does not wait until the vCPUs have left."""

    @staticmethod
    async def all_out(kvm: KvmHost) -> None:
        pass


class NeverAdjusted(SuspendCorrected):
    """The gate opens, and nothing was taken from the clocks."""

    @classmethod
    def adjust(cls, vm: VmTime) -> None:
        pass


class NobodyWoken(SuspendCorrected):
    """The record is written, and nobody interrupted."""

    @classmethod
    def tell(cls, vm: VmTime, now_tsc: int) -> None:
        cls._store(vm.suspend, vm.suspend.page)

    @classmethod
    def polled(cls, vcpu: VcpuTime) -> None:
        pass


class NotRaisedAgain(SuspendCorrected):
    """An interrupt that was lost stays lost."""

    @classmethod
    def polled(cls, vcpu: VcpuTime) -> None:
        pass


class CountsFromNothing(HandlerCorrected):
    """A guest that registers takes the whole total for new."""

    @staticmethod
    def register(guest: GuestLinux, page: SuspendPage) -> None:
        guest.page = page


class TwiceAsleep(HandlerCorrected):
    """A guest that has slept itself injects the record's total on top."""

    @staticmethod
    def resumed(guest: GuestLinux, slept_ns: int) -> None:
        pass


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def lay(rule: type[SuspendCorrected]) -> str:
        monkeypatch.setitem(overlays.OVERLAYS, "broken", plain("broken", "broken", suspend_time=rule))
        return "linux-6.12+broken"

    return lay


def found_in(kernel: str, handler: type[HandlerCorrected], changes: dict[str, Any]) -> set[str]:
    setting = Setting(kernel=kernel, handler=handler, vcpus=1).but(**changes)
    return set(violated(in_world(setting, orders=60)))


RESET = (Night(tsc="reset"),)
ABORTED = (Night(aborted_at="freezer"),)


@pytest.mark.parametrize(
    ("rule", "changes", "flagged"),
    [
        (OneVcpu, {"vcpus": 2}, "one"),
        (NoBooks, {"hotplug": "after"}, "I22"),
        (AfterTheLoad, {"nights": RESET}, "I6"),
        (NobodyWaits, {"nights": ABORTED}, "I1"),
        (NeverAdjusted, {}, "I6"),
        (NobodyWoken, {}, "I11"),
        (NobodyWoken, {"halted": (0,)}, "I9"),
        (NotRaisedAgain, {"apic_off": (0,)}, "I12"),
    ],
)
def test_a_broken_line_of_the_hosts_is_flagged(
    broken: Any, rule: type[SuspendCorrected], changes: dict[str, Any], flagged: str
) -> None:
    assert flagged in found_in(broken(rule), HandlerCorrected, changes)


@pytest.mark.parametrize(
    ("handler", "changes", "flagged"),
    [
        (CountsFromNothing, {"reboots": True}, "I21"),
        (TwiceAsleep, {"guest_asleep": True}, "I21"),
        pytest.param(leaves("boot_bases"), {}, "I9", id="BOOTTIME's timers are not told"),
        pytest.param(leaves("tk.offs_real_ns"), {}, "I4", id="REALTIME does not move"),
    ],
)
def test_a_broken_line_of_the_guests_is_flagged(
    handler: type[HandlerCorrected], changes: dict[str, Any], flagged: str
) -> None:
    assert flagged in found_in("linux-6.12+suspend-corrected", handler, changes)


# ---- the table


def test_every_design_is_asked_in_every_case_of_its_own() -> None:
    names = [design.name for design in THREAD.designs]
    assert names == [
        "stock", "v1", "v2", "v3", "corrected", "inhibitor", "gate", "detect", "guest-first", "by-value", "untold",
        "mono-is-boot", "sysfs",
        "gate-late-stamp",
    ]  # fmt: skip
    for design in THREAD.designs:
        cases = [each.name for each in design.cases()]
        assert len(cases) == len(set(cases))
        assert {"sleep", "reset"} <= set(cases) or design.name in ("by-value", "untold")


def test_a_random_integer_run_is_never_beyond_a_proved_bound() -> None:
    """The second opinion: the corrected design's own steps at times that a verdict's schedule gives."""
    result = asked("v3", "sleep", "I6")
    (verdict,) = [v for v in result.verdicts if v.property == "I6"]
    assert replayed("v3", "sleep", verdict).finished
    assert verdict.bound is not None
    assert verdict.worst is not None
    assert verdict.worst <= verdict.bound + 2


def test_nothing_of_the_table_is_vacuous_for_the_corrected_design() -> None:
    asked_of = {v.property for v in asked("corrected", "sleep").verdicts if v.status != VACUOUS}
    assert {"I1", "I4", "I6", "I8", "I9", "I10", "I11", "I13", "I21", "I23", "I24"} <= asked_of
    assert GATE.endswith("suspend-gate")
